"""Sections of the report about the embedding space: verification, diagnostics, and a map."""

from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.retrieval.health import alignment_uniformity, draw_map, effective_rank, hubness
from anchorage.retrieval.pairs import PairStatistics
from anchorage.retrieval.verification import verification

if TYPE_CHECKING:
    from anchorage.retrieval.metrics import RetrievalResult
    from anchorage.retrieval.table import Embeddings


def describe_space(
    table: "Embeddings",
    result: "RetrievalResult",
    pairs: PairStatistics,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the sections `verification` (if there are pairs of both kinds), `space` and `map` (if images suffice).

    On the map, `right` is whether the nearest neighbor is of the image's class; None for images that are no queries.

    Args:
        table: the evaluated embeddings.
        result: their evaluation, for the neighbors.
        pairs: statistics of the pairs of the same table.
        groups: `(M,)` names; pairs within a group are excluded.
        seed: seed of intervals and map.
    """
    sections: dict[str, Any] = {}
    verified = verification(pairs, table.vectors, table.labels, table.roles, groups=groups, seed=seed)
    if verified:
        sections["verification"] = verified
    hubs = hubness(result.neighbor_rows, np.flatnonzero(table.roles != "query"))
    hubs["hubs"] = [
        {"id": str(table.ids[hub["row"]]), "label": str(table.labels[hub["row"]]), **hub} for hub in hubs["hubs"]
    ]
    sections["space"] = {**effective_rank(table.vectors), **alignment_uniformity(pairs), "hubness": hubs}
    points = draw_map(table.vectors, seed=seed)
    if points:
        rows = points.pop("rows")
        nearest = dict(zip(result.query_rows.tolist(), result.neighbor_rows[:, 0].tolist(), strict=True))
        sections["map"] = {
            **points,
            "ids": table.ids[rows].tolist(),
            "labels": table.labels[rows].tolist(),
            "right": [table.labels[nearest[row]] == table.labels[row] if row in nearest else None for row in rows],
        }
    return sections
