"""May queries of the new model search a gallery of the old one? Four cells, and what follows from them."""

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
    """Measure all four pairings of queries and gallery, each embedded by the new or the old model.

    Args:
        ours: the new model's embeddings.
        theirs: the old model's, of the same images in the same order.
        metric: what is measured.
        max_drop: how much worse than today's search queries of the new model may do in the old gallery.
        name: of the old model, such as "release 3".
        protocol: which gallery rows a query leaves out, and its parent classes.

    Returns:
        `metric`, `old`, `cells` (rows "old" and "new" queries, columns "old" and "new" gallery; None where it cannot
        be measured), `queries`, `re_embed` (whether the gallery must be embedded anew first) and `advice`, a sentence.
    """

    def measure(queries: "Embeddings", gallery: "Embeddings") -> tuple[float | None, int]:
        if queries.dimension != gallery.dimension:
            return None, 0
        found = evaluate(queries, [metric], protocol, gallery.vectors)
        return found.values[metric], found.num_queries

    models = {"old": theirs, "new": ours}
    cells = {query: {gallery: measure(models[query], models[gallery])[0] for gallery in models} for query in models}
    mixed, today = cells["new"]["old"], cells["old"]["old"]
    re_embed = mixed is None or today is None or mixed < today - max_drop
    shown = metric_name(metric)
    if mixed is None:
        advice = (
            f"Embed the gallery anew before queries switch: the new model has {ours.dimension} dimensions, "
            f"{name} has {theirs.dimension}."
        )
    elif re_embed:
        advice = (
            f"Embed the gallery anew before queries switch: in the gallery of {name}, queries of this model reach a "
            f"{shown} of {100 * mixed:.1f} %, those of {name} {100 * (today or 0):.1f} %."
        )
    else:
        advice = (
            f"Queries may switch first: in the gallery of {name} they reach a {shown} of {100 * mixed:.1f} %, "
            f"no less than today's {100 * (today or 0):.1f} % less {100 * max_drop:g} points."
        )
    return {
        "metric": metric,
        "old": name,
        "queries": measure(ours, ours)[1],
        "cells": cells,
        "re_embed": re_embed,
        "advice": advice,
    }
