"""A ScaNN index over gallery embeddings: built, tuned on probes, and measured against exact search.

Below 20,000 rows search is brute force. Above, rows are partitioned by a tree of about sqrt(rows) leaves, scored by
asymmetric hashing with an anisotropic threshold of 0.2, and the best candidates are reordered by exact similarity: Guo
et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020. Two parameters are tuned,
in this order: the number of candidates to reorder, and the number of leaves to search.

Three pitfalls of ScaNN are avoided: it aborts the process on NaN rows, executes the code of a pickled ids file, and
pads short results with row 0. So vectors are checked first, ids are not passed to it, and short results are repeated
with all leaves.
"""

import json
import logging
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.errors import DataError, GateError, UsageError
from anchorage.files import replace_file
from anchorage.retrieval.neighbors import check_vectors, nearest_neighbors

__all__ = ["Index", "build_index", "check_vectors", "load_index", "load_vectors", "save_index", "search"]

FORMAT = 1
BRUTE_FORCE_ROWS = 20_000  # below this number exact search is as fast

_PROBES = 512
_REORDER_FACTORS = (6, 12, 25, 50)  # candidates to reorder, per neighbor
_TRAINING_ROWS = 250_000  # rows to train the partitioning on; more only take longer
_NEAR = 1e-5  # a row within this distance of the last true neighbor counts as a true neighbor
_PICKLES = {".pkl", ".pickle"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """A searcher in memory, with its metadata.

    Args:
        searcher: ScaNN searcher; it identifies rows by number.
        facts: content of `index.json`: `kind` ("brute_force" or "tree_ah") with its `reason`, `rows`, `dimension`,
            `distance`, `normalized`, `neighbors`, `leaves`, `leaves_to_search`, `reorder`, `recall`, `probes`,
            `min_recall`.
    """

    searcher: Any
    facts: dict[str, Any]

    @property
    def rows(self) -> int:
        return self.facts["rows"]

    @property
    def dimension(self) -> int:
        return self.facts["dimension"]


def build_index(
    vectors: np.ndarray,
    *,
    ids: Sequence[str] | np.ndarray | None = None,
    neighbors: int = 10,
    min_recall: float = 0.95,
    leaves: int = 0,
    probes: np.ndarray | None = None,
    seed: int = 0,
) -> Index:
    """Build an inner-product index of the gallery and measure its recall of the true nearest neighbors.

    Args:
        vectors: `(M, D)` float32, rows of unit length.
        ids: `(M,)` names of the rows, for error messages only.
        neighbors: number of neighbors per query; at most the number of rows that a probe can find.
        min_recall: lowest accepted recall, in [0, 1].
        leaves: partitions of the tree; 0 for about the square root of the rows. Below 20,000 rows there is no tree.
        probes: `(N, D)` queries to measure the recall with; None for gallery rows, which are excluded from their own
            results.
        seed: samples the probes from the gallery. ScaNN's own training has no seed.

    Raises:
        DataError: `E_VECTOR_NOT_FINITE`, `E_VECTOR_ZERO`, `E_VECTOR_SHAPE`, `E_INDEX_EMPTY`.
        UsageError: if `neighbors`, `min_recall` or `leaves` is out of range.
        GateError: `E_INDEX_RECALL` if no parameters reach `min_recall`.
    """
    _check_settings(neighbors, min_recall, leaves)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise DataError("E_VECTOR_SHAPE", f"Expected vectors of shape (rows, dimension). Received: {vectors.shape}")
    if not len(vectors):
        raise DataError("E_INDEX_EMPTY", "Expected at least one gallery vector to index. Received: none")
    check_vectors(vectors, ids)  # before any native code: ScaNN aborts the process on NaN

    facts = _plan(len(vectors), leaves)
    _log.info("index of %d rows: %s (%s)", len(vectors), facts["kind"], facts["reason"])
    searcher = _build(vectors, neighbors, facts)
    lengths = np.sqrt(np.einsum("md,md->m", vectors, vectors))
    facts |= {
        "rows": len(vectors),
        "dimension": vectors.shape[1],
        "distance": "dot_product",
        "normalized": bool(np.all(np.abs(lengths - 1) < 1e-3)),
        "neighbors": neighbors,
        "min_recall": min_recall,
    }
    return _tune(Index(searcher, facts), _Probes(vectors, probes, neighbors, seed))


def search(index: Index, queries: np.ndarray, k: int, leaves: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Search the index for the approximate `k` nearest gallery rows of each query.

    Args:
        index: from `build_index` or `load_index`.
        queries: `(N, D)` floats, rows of unit length.
        k: number of neighbors; at most the number of rows are returned.
        leaves: for results of which some are dropped afterwards: least number of leaves to search, if it is greater
            than the tuned one; twice as many candidates as tuned are reordered. 0 searches as tuned.

    Returns:
        Rows `(N, min(k, rows))` int64 and their similarities, float32 of the same shape, nearest first.

    Raises:
        DataError: `E_QUERY_SHAPE` for a wrong shape or dtype, `E_VECTOR_NOT_FINITE`.
        UsageError: if `k < 1`.
    """
    queries = _check_queries(queries, index.dimension)
    if k < 1:
        raise UsageError("E_NEIGHBORS", f"Expected `k` of at least 1. Received: k={k}")
    k = min(k, index.rows)
    if not len(queries):  # ScaNN reports a wrong dimension for an empty batch
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    if index.facts["kind"] == "brute_force":
        return _search_batch(index, queries, k)
    reorder = max((2 if leaves else 1) * index.facts["reorder"], _REORDER_FACTORS[0] * k)
    leaves = min(index.facts["leaves"], max(leaves, index.facts["leaves_to_search"]))
    rows, similarities = _search_batch(index, queries, k, reorder, leaves)
    short = np.flatnonzero(np.isnan(similarities).any(axis=1))
    if len(short):  # the searched leaves have fewer than k rows
        rows[short], similarities[short] = _search_batch(index, queries[short], k, reorder, index.facts["leaves"])
    return rows, similarities


def save_index(index: Index, folder: str | os.PathLike, **facts: Any) -> None:
    """Write `scann/` and then `index.json` to `folder`, which can be moved afterwards.

    Args:
        index: the index to save.
        folder: created if missing; must not contain an index, since ScaNN does not remove the files of an older one.
        facts: additional JSON values for `index.json`, such as `model_fingerprint`.

    Raises:
        UsageError: `E_FOLDER_NOT_EMPTY` if the folder contains an index.
    """
    folder = Path(folder)
    files = folder / "scann"
    if files.exists() or (folder / "index.json").exists():
        raise UsageError("E_FOLDER_NOT_EMPTY", f"Expected a fresh folder for the index. Received: one in {folder}")
    files.mkdir(parents=True)
    index.searcher.serialize(str(files), relative_path=True)
    content = {"format": FORMAT, **index.facts, **facts}
    replace_file(folder / "index.json", json.dumps(content, indent=1, sort_keys=True).encode())


def load_index(folder: str | os.PathLike, dimension: int | None = None) -> Index:
    """Load a saved index, whose files the caller has verified against the hashes of their manifest.

    Args:
        folder: written by `save_index`.
        dimension: dimension of the queries, if known.

    Raises:
        DataError: `E_INDEX_MISSING`, `E_INDEX_DAMAGED`, `E_INDEX_PICKLE` if the folder contains a pickle (ScaNN would
            execute its code), `E_QUERY_SHAPE` if the vectors of the index have another dimension.
    """
    folder = Path(folder)
    facts = _read_facts(folder)
    pickles = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix.lower() in _PICKLES)
    if pickles:
        raise DataError(
            "E_INDEX_PICKLE",
            f"Expected an index without pickled files in {folder}. Received: {pickles[0]}, which can execute any code "
            "when loaded. `anchorage run` builds an index without pickled files",
        )
    if dimension is not None and dimension != facts["dimension"]:
        raise DataError(
            "E_QUERY_SHAPE",
            f"Expected queries of {facts['dimension']} dimensions for the index in {folder}. Received: {dimension}. "
            "Use index and model of the same release",
        )
    _check_assets(folder / "scann")

    from scann.scann_ops.py import scann_ops_pybind

    try:
        searcher = scann_ops_pybind.load_searcher(str(folder / "scann"), assets_backcompat_shim=False)
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(folder, str(error)) from error
    if searcher.size() != facts["rows"]:
        raise _damaged(folder, f"{searcher.size()} rows in scann/, {facts['rows']} in index.json")
    return Index(searcher, facts)


def load_vectors(folder: str | os.PathLike) -> np.ndarray:
    """Map the vectors of a saved index into memory: `(M, D)` float32, read-only, in the order of its rows.

    Raises:
        DataError: `E_INDEX_DAMAGED`.
    """
    path = Path(folder) / "scann" / "dataset.npy"
    facts = _read_facts(Path(folder))
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(Path(folder), f"scann/dataset.npy: {error}") from error
    if vectors.shape != (facts["rows"], facts["dimension"]) or vectors.dtype != np.float32:
        raise _damaged(Path(folder), f"vectors of shape {vectors.shape}, {vectors.dtype}, in scann/dataset.npy")
    return vectors


class _Probes:
    """Queries with their true nearest neighbors, to measure the recall of an index."""

    def __init__(self, gallery: np.ndarray, queries: np.ndarray | None, neighbors: int, seed: int):
        self.gallery = gallery
        source = gallery if queries is None else queries
        chosen = np.random.default_rng(seed).permutation(len(source))[:_PROBES]
        self.own = chosen if queries is None else None  # gallery rows are excluded from their own results
        self.queries = _check_queries(source[chosen], gallery.shape[1])
        self.neighbors = min(neighbors, len(gallery) - (queries is None))
        if self.neighbors:
            _, similarities = nearest_neighbors(self.queries, gallery, self.neighbors, self.own)
            last = similarities[:, -1]
            self.least = last - _NEAR * np.maximum(1, np.abs(last))

    def recall(self, index: Index) -> float:
        """Compute the share of true neighbors that the index finds: the lower value of two halves of the probes."""
        if not self.neighbors or not len(self.queries):  # a gallery of one row
            return 1.0
        rows, _ = search(index, self.queries, self.neighbors + (self.own is not None))
        similarities = np.einsum("nkd,nd->nk", self.gallery[rows], self.queries)
        if self.own is not None:
            similarities[rows == self.own[:, None]] = -np.inf
        hits = (similarities >= self.least[:, None]).sum(axis=1)
        recalls = np.minimum(hits, self.neighbors) / self.neighbors
        return float(min(recalls[::2].mean(), recalls[1::2].mean() if len(recalls) > 1 else 1.0))


def _plan(rows: int, leaves: int) -> dict[str, Any]:
    """Choose the kind of index for a number of rows, with the reason as a text."""
    if rows < BRUTE_FORCE_ROWS:
        reason = f"{rows:,} rows are fewer than {BRUTE_FORCE_ROWS:,}: brute force, which is exact"
        return {"kind": "brute_force", "reason": reason, "leaves": 0, "leaves_to_search": 0, "reorder": 0}
    leaves = min(leaves or round(math.sqrt(rows)), rows // 2)
    reason = f"{rows:,} rows: a tree of {leaves:,} leaves, asymmetric hashing, the best candidates reordered exactly"
    return {"kind": "tree_ah", "reason": reason, "leaves": leaves}


def _build(vectors: np.ndarray, neighbors: int, facts: dict[str, Any]):
    from scann.scann_ops.py import scann_ops_pybind

    builder = scann_ops_pybind.builder(vectors, min(neighbors, len(vectors)), "dot_product")
    if facts["kind"] == "brute_force":
        return builder.score_brute_force().build()
    sample = min(len(vectors), _TRAINING_ROWS)
    tree = builder.tree(facts["leaves"], max(1, facts["leaves"] // 8), training_sample_size=sample)
    scored = tree.score_ah(2, anisotropic_quantization_threshold=0.2)
    return scored.reorder(_REORDER_FACTORS[0] * neighbors).build()


def _tune(index: Index, probes: _Probes) -> Index:
    """Find the cheapest parameters that reach the recall, in the order of ScaNN's tuning guide."""
    least, leaves = index.facts["min_recall"], index.facts["leaves"]
    if index.facts["kind"] == "brute_force":
        tuned = index
        recall = probes.recall(tuned)
    else:
        # Reordering may lose half of the allowed recall, skipped leaves the other half.
        for factor in _REORDER_FACTORS:
            tuned = _update_facts(index, reorder=factor * index.facts["neighbors"], leaves_to_search=leaves)
            recall = probes.recall(tuned)
            if recall >= (1 + least) / 2:
                break
        for searched in sorted({-(-leaves // 2**halvings) for halvings in range(8)}):
            tuned = _update_facts(tuned, leaves_to_search=searched)
            recall = probes.recall(tuned)
            if recall >= least:
                break
    if recall < least:
        raise GateError(
            "E_INDEX_RECALL",
            f"Expected an index that finds at least {least} of the true {probes.neighbors} nearest rows. Received: "
            f"{recall:.4f} with all {leaves} leaves searched. Lower `min_recall`",
        )
    _log.info("index recall@%d = %.4f over %d probes", probes.neighbors, recall, len(probes.queries))
    return _update_facts(tuned, recall=recall, probes=len(probes.queries))


def _update_facts(index: Index, **facts: Any) -> Index:
    return Index(index.searcher, {**index.facts, **facts})


def _search_batch(
    index: Index, queries: np.ndarray, k: int, reorder: int | None = None, leaves: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    rows, similarities = index.searcher.search_batched(
        queries, final_num_neighbors=k, pre_reorder_num_neighbors=reorder, leaves_to_search=leaves
    )
    return rows.astype(np.int64), similarities


def _check_settings(neighbors: int, min_recall: float, leaves: int) -> None:
    checks = {
        "neighbors": (neighbors, "at least 1", neighbors >= 1),
        "min_recall": (min_recall, "a share from 0 to 1", 0 <= min_recall <= 1),
        "leaves": (leaves, "0 (chosen by the number of rows) or more", leaves >= 0),
    }
    for name, (value, expected, valid) in checks.items():
        if not valid:
            raise UsageError("E_INDEX_SETTING", f"Expected `{name}` to be {expected}. Received: {value}")


def _check_queries(queries: np.ndarray, dimension: int) -> np.ndarray:
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.shape[1] != dimension or queries.dtype.kind != "f":
        raise DataError(
            "E_QUERY_SHAPE",
            f"Expected queries of shape (N, {dimension}) and a float dtype. "
            f"Received: shape {queries.shape}, dtype {queries.dtype}. The index was built with another model",
        )
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    check_vectors(queries, allow_zero=True)
    return queries


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / "index.json").read_bytes())
    except FileNotFoundError as error:
        raise DataError("E_INDEX_MISSING", f"Expected index.json in {folder}. Received: no such file") from error
    except ValueError as error:
        raise _damaged(folder, f"index.json: {error}") from error
    required = {"kind": str, "rows": int, "dimension": int, "leaves": int, "leaves_to_search": int, "reorder": int}
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise _damaged(folder, f"index.json is not of format {FORMAT}")
    for name, kind in required.items():
        if not isinstance(facts.get(name), kind):
            raise _damaged(folder, f"{name} = {facts.get(name)!r} in index.json")
    return facts


def _check_assets(files: Path) -> None:
    """Raise unless every file in ScaNN's list of assets exists in the folder of that list."""
    try:
        names = re.findall(r'asset_path:\s*"([^"]*)"', (files / "scann_assets.pbtxt").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(files.parent, f"scann_assets.pbtxt: {error}") from error
    outside = [name for name in names if Path(name).name != name or not (files / name).is_file()]
    if outside or not names:
        raise _damaged(files.parent, f"scann_assets.pbtxt names {outside or 'no file'}, which is not in its folder")


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(
        "E_INDEX_DAMAGED", f"Expected an intact index in {folder}. Received: {what}. `anchorage run` builds a new one"
    )
