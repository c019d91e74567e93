"""How the usual benchmarks ask: who queries, who is found, at which depths, how often.

CUB-200-2011, Cars196, Stanford Online Products and iNaturalist: every test image asks, and all others are the gallery.
In-Shop: queries and gallery are given by the data set, and nothing is left out. VehicleID: one image a class, drawn at
random, is the gallery and all others ask; the mean of ten draws counts (Liu et al., CVPR 2016).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchorage.errors import DataError, UsageError
from anchorage.retrieval.metrics import RetrievalResult, evaluate_retrieval

_RANKED = ("map@r", "r_precision")


class Protocol(NamedTuple):
    """One benchmark's way to ask.

    Args:
        asks: "all" (everybody, of all others), "roles" (as the data says), or "draws" (of one random image a class).
        metrics: what is usually reported, with MAP@R and R-precision.
        draws: how many times the gallery is drawn.
    """

    asks: str
    metrics: tuple[str, ...]
    draws: int = 1


PROTOCOLS = {
    "cub": Protocol("all", ("recall@1", "recall@2", "recall@4", "recall@8", *_RANKED)),
    "cars196": Protocol("all", ("recall@1", "recall@2", "recall@4", "recall@8", *_RANKED)),
    "sop": Protocol("all", ("recall@1", "recall@10", "recall@100", "recall@1000", *_RANKED)),
    "in_shop": Protocol("roles", ("recall@1", "recall@10", "recall@20", "recall@30", "recall@40", *_RANKED)),
    "inaturalist": Protocol("all", ("recall@1", "recall@4", "recall@16", "recall@32", *_RANKED)),
    "vehicle_id": Protocol("draws", ("recall@1", "recall@5", "map"), draws=10),
}


class Benchmark(NamedTuple):
    """What a protocol gives.

    Args:
        values: metric name -> mean over the draws.
        spread: metric name -> standard deviation from draw to draw; 0 where nothing is drawn.
        results: one evaluation a draw.
    """

    values: dict[str, float]
    spread: dict[str, float]
    results: list[RetrievalResult]


def evaluate_protocol(
    name: str,
    vectors: np.ndarray,
    labels: Any,
    roles: Sequence[str] | np.ndarray | None = None,
    *,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> Benchmark:
    """Evaluate embeddings of a benchmark's test images as its papers do.

    Args:
        name: one of `PROTOCOLS`.
        vectors: `(M, D)` of unit length.
        labels: `(M,)` classes.
        roles: `(M,)` "query", "gallery" or "both"; needed where the protocol takes them from the data.
        metrics: instead of those of the protocol.
        seed: draws the gallery where it is drawn.

    Raises:
        UsageError: `E_PROTOCOL` for an unknown name.
        DataError: `E_ROLE` if roles are needed and lacking, and what `evaluate_retrieval` raises.
    """
    if name not in PROTOCOLS:
        raise UsageError("E_PROTOCOL", f"Expected a protocol among {', '.join(PROTOCOLS)}. Received: {name!r}")
    protocol = PROTOCOLS[name]
    if protocol.asks == "roles" and (roles is None or not {"query", "gallery"} <= set(np.asarray(roles).tolist())):
        raise DataError("E_ROLE", f"Expected queries and a gallery, as {name} has them. Received: no such roles")
    drawn = _roles(protocol, np.asarray(labels), roles, seed)
    wanted = protocol.metrics if metrics is None else metrics
    results = [evaluate_retrieval(vectors, labels, asked, wanted) for asked in drawn]
    table = {metric: [result.values[metric] for result in results] for metric in wanted}
    return Benchmark(
        values={metric: float(np.mean(values)) for metric, values in table.items()},
        spread={metric: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for metric, values in table.items()},
        results=results,
    )


def _roles(protocol: Protocol, labels: np.ndarray, roles: Any, seed: int) -> Iterator[np.ndarray | None]:
    if protocol.asks != "draws":
        yield np.asarray(roles) if protocol.asks == "roles" else None
        return
    rng = np.random.default_rng(seed)
    for _ in range(protocol.draws):
        order = rng.permutation(len(labels))
        firsts = order[np.unique(labels[order], return_index=True)[1]]
        yield np.where(np.isin(np.arange(len(labels)), firsts), "gallery", "query")
