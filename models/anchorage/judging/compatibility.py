"""Backward compatibility: whether queries of the new model can search a gallery embedded by the old model."""

from typing import TYPE_CHECKING, Any

from anchorage.judging.gate import metric_name
from anchorage.judging.numbers import evaluate
from anchorage.judging.settings import QueryProtocol

if TYPE_CHECKING:
    from anchorage.retrieval.table import Embeddings


def compatibility(
    ours: "Embeddings",
    theirs: "Embeddings",
    *,
    metric: str,
    max_drop: float,
    name: str,
    protocol: QueryProtocol = QueryProtocol(),  # noqa: B008 - a tuple
) -> dict[str, Any]:
    """Evaluate all four combinations of queries and gallery, each embedded by the old or the new model.

    Args:
        ours: embeddings by the new model.
        theirs: embeddings by the old model, of the same images in the same order.
        metric: name of the metric.
        max_drop: largest accepted loss of new queries in the old gallery, compared with old queries in it.
        name: name of the old model, such as "release 3".
        protocol: column of excluded gallery rows, and column of parent classes.

    Returns:
        `metric`, `old`, `cells` (rows "old" and "new" queries, columns "old" and "new" gallery; None if the dimensions
        differ), `queries`, `re_embed` (whether the gallery must be embedded by the new model first) and `advice`, a
        sentence.
    """

    def measure(queries: "Embeddings", gallery: "Embeddings") -> tuple[float | None, int]:
        if queries.dimension != gallery.dimension:
            return None, 0
        result = evaluate(queries, [metric], protocol, gallery.vectors)
        return result.values[metric], result.num_queries

    models = {"old": theirs, "new": ours}
    cells = {query: {gallery: measure(models[query], models[gallery])[0] for gallery in models} for query in models}
    mixed, current = cells["new"]["old"], cells["old"]["old"]
    re_embed = mixed is None or current is None or mixed < current - max_drop
    title = metric_name(metric)
    if mixed is None:
        advice = (
            f"Re-embed the gallery before queries switch: the new model has {ours.dimension} dimensions, "
            f"{name} has {theirs.dimension}."
        )
    elif re_embed:
        advice = (
            f"Re-embed the gallery before queries switch: in the gallery of {name}, queries of this model reach a "
            f"{title} of {100 * mixed:.1f} %, those of {name} {100 * (current or 0):.1f} %."
        )
    else:
        advice = (
            f"Queries can switch first: in the gallery of {name} they reach a {title} of {100 * mixed:.1f} %; "
            f"today's {100 * (current or 0):.1f} % less {100 * max_drop:g} points are required."
        )
    return {
        "metric": metric,
        "old": name,
        "queries": measure(ours, ours)[1],
        "cells": cells,
        "re_embed": re_embed,
        "advice": advice,
    }
