"""The report's numbers on the space itself: verification, its health, a map."""

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
    """`verification` (absent without pairs of both kinds), `space` and `map` (absent for a handful of images).

    On the map, `right` says whether the nearest neighbour is of the image's class, None where nobody asked.

    Args:
        table: what was evaluated.
        result: the evaluation, for its neighbours.
        pairs: counted over the same table.
        groups: `(M,)` names; pairs within one do not count.
        seed: of intervals and map.
    """
    found: dict[str, Any] = {}
    verified = verification(pairs, table.vectors, table.labels, table.roles, groups=groups, seed=seed)
    if verified:
        found["verification"] = verified
    hubs = hubness(result.neighbor_rows, np.flatnonzero(table.roles != "query"))
    hubs["hubs"] = [
        {"id": str(table.ids[hub["row"]]), "label": str(table.labels[hub["row"]]), **hub} for hub in hubs["hubs"]
    ]
    found["space"] = {**effective_rank(table.vectors), **alignment_uniformity(pairs), "hubness": hubs}
    drawn = draw_map(table.vectors, seed=seed)
    if drawn:
        rows = drawn.pop("rows")
        nearest = dict(zip(result.query_rows.tolist(), result.neighbor_rows[:, 0].tolist(), strict=True))
        found["map"] = {
            **drawn,
            "ids": table.ids[rows].tolist(),
            "labels": table.labels[rows].tolist(),
            "right": [table.labels[nearest[row]] == table.labels[row] if row in nearest else None for row in rows],
        }
    return found
