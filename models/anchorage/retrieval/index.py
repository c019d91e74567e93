"""A ScaNN index over gallery embeddings: searched, saved, loaded; `index_building` builds one.

Three pitfalls of ScaNN are avoided: it aborts the process on NaN rows, executes the code of a pickled ids file, and
pads short results with row 0. So vectors are checked first, ids are not passed to it, and short results are repeated
with all leaves.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.errors import DataError, UsageError
from anchorage.files import replace_file
from anchorage.retrieval.neighbors import check_vectors
from anchorage.retrieval.sharded import Searcher, merge_shards, shard_folder

FORMAT, FORMAT_OF_SHARDS = 1, 2  # a version that knows no shards refuses an index of several

_VECTORS = "vectors.npy"
_PICKLES = {".pkl", ".pickle"}


@dataclass(frozen=True)
class Index:
    """A searcher in memory, with its metadata.

    Args:
        searcher: ScaNN searcher, or one of several shards; it identifies rows by number.
        facts: content of `index.json`: `kind` ("brute_force" or "tree_ah") with its `reason`, `rows`, `dimension`,
            `shards` (the rows of each), `shard_rows` (the most that one may have), `distance`, `normalized`,
            `neighbors`, `leaves` and `leaves_to_search` of each shard, `reorder` (candidates of each shard whose exact
            similarity is computed, for `neighbors` results), `stored` (type of the vectors), `soar` (its lambda, 0
            without), `recall`, `probes`, `min_recall`, `max_memory_mib`, and `trials`: the parameters that were
            measured.
    """

    searcher: Searcher
    facts: dict[str, Any]

    @property
    def rows(self) -> int:
        return self.facts["rows"]

    @property
    def dimension(self) -> int:
        return self.facts["dimension"]

    @property
    def shards(self) -> list[int]:
        """Rows of each shard."""
        return self.facts["shards"]

    def with_facts(self, **facts: Any) -> "Index":
        """Return the same searcher with other facts, such as the number of leaves to search."""
        return Index(self.searcher, {**self.facts, **facts})


def search(index: Index, queries: np.ndarray, k: int, leaves: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Search the index for the approximate `k` nearest gallery rows of each query.

    Args:
        index: from `build_index` or `load_index`.
        queries: `(N, D)` floats, rows of unit length.
        k: number of neighbors; at most the number of rows are returned.
        leaves: for results of which some are dropped afterwards: least number of leaves to search, if it is greater
            than the tuned one; more candidates than tuned are reordered, too. 0 searches as tuned.

    Returns:
        Rows `(N, min(k, rows))` int64 and their similarities, float32 of the same shape, nearest first.

    Raises:
        DataError: `E_QUERY_SHAPE` for a wrong shape or dtype, `E_VECTOR_NOT_FINITE`.
        UsageError: if `k < 1`.
    """
    queries = check_queries(queries, index.dimension)
    if k < 1:
        raise UsageError("E_NEIGHBORS", f"Expected `k` of at least 1. Received: k={k}")
    k = min(k, index.rows)
    if not len(queries):  # ScaNN reports a wrong dimension for an empty batch
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    if index.facts["kind"] == "brute_force":
        return _search_batch(index, queries, k)
    reorder = -(-index.facts["reorder"] * max(k, index.facts["neighbors"]) // index.facts["neighbors"])
    if leaves:  # results beyond those that it was tuned for
        reorder += 2 * index.facts["reorder"]
    leaves = min(index.facts["leaves"], max(leaves, index.facts["leaves_to_search"]))
    rows, similarities = _search_batch(index, queries, k, reorder, leaves)
    short = np.flatnonzero(np.isnan(similarities).any(axis=1))
    if len(short):  # the searched leaves have fewer than k rows
        rows[short], similarities[short] = _search_batch(index, queries[short], k, reorder, index.facts["leaves"])
    return rows, similarities


def save_index(index: Index, folder: str | os.PathLike, vectors: np.ndarray | None = None, **facts: Any) -> None:
    """Write `scann/` and then `index.json` to `folder`, which can be moved afterwards.

    Of several shards, each has a folder in `scann/`, and the vectors of all are in `vectors.npy`.

    Args:
        index: the index to save.
        folder: created if missing; must not contain an index, since ScaNN does not remove the files of an older one.
        vectors: `(M, D)` float32 rows, for an index in shards or one that stores other numbers: written to
            `vectors.npy`.
        facts: additional JSON values for `index.json`, such as `model_fingerprint`.

    Raises:
        UsageError: `E_FOLDER_NOT_EMPTY` if the folder contains an index.
    """
    check_fresh(folder)
    folder = Path(folder)
    files = folder / "scann"
    files.mkdir(parents=True)
    index.searcher.serialize(str(files), relative_path=True)
    if vectors is not None and _has_vectors(index.facts):
        np.save(folder / _VECTORS, np.asarray(vectors, np.float32))
    content = {"format": _format(index.facts), **index.facts, **facts}
    replace_file(folder / "index.json", json.dumps(content, indent=1, sort_keys=True).encode())


def check_fresh(folder: str | os.PathLike) -> None:
    """Raise `UsageError` `E_FOLDER_NOT_EMPTY` if there is an index in a folder."""
    if any(Path(folder, name).exists() for name in ("scann", "index.json")):
        raise UsageError("E_FOLDER_NOT_EMPTY", f"Expected a fresh folder for the index. Received: one in {folder}")


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
    files = folder / "scann"
    shards = facts["shards"]
    folders = [files] if len(shards) == 1 else [shard_folder(files, number) for number in range(len(shards))]
    return Index(merge_shards([_load_shard(*shard, folder) for shard in zip(folders, shards, strict=True)]), facts)


def load_searcher(files: str | os.PathLike) -> Searcher:
    """Load a searcher that ScaNN has written.

    Raises:
        RuntimeError, ValueError, OSError: if it is damaged.
    """
    from scann.scann_ops.py import scann_ops_pybind

    return scann_ops_pybind.load_searcher(os.fspath(files), assets_backcompat_shim=False)


def load_vectors(folder: str | os.PathLike) -> np.ndarray:
    """Map the vectors of a saved index into memory: `(M, D)` float32, read-only, in the order of its rows.

    Raises:
        DataError: `E_INDEX_DAMAGED`.
    """
    folder = Path(folder)
    facts = _read_facts(folder)
    path = folder / _VECTORS if _has_vectors(facts) else folder / "scann" / "dataset.npy"
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{path.relative_to(folder)}: {error}") from error
    if vectors.shape != (facts["rows"], facts["dimension"]) or vectors.dtype != np.float32:
        raise _damaged(folder, f"vectors of shape {vectors.shape}, {vectors.dtype}, in {path.relative_to(folder)}")
    return vectors


def _search_batch(
    index: Index, queries: np.ndarray, k: int, reorder: int | None = None, leaves: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    rows, similarities = index.searcher.search_batched(
        queries, final_num_neighbors=k, pre_reorder_num_neighbors=reorder, leaves_to_search=leaves
    )
    return rows.astype(np.int64), similarities


def check_queries(queries: np.ndarray, dimension: int) -> np.ndarray:
    """Return the queries as float32; raise `DataError` `E_QUERY_SHAPE` or `E_VECTOR_NOT_FINITE` for invalid ones."""
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
    if not isinstance(facts, dict) or facts.get("format") not in (FORMAT, FORMAT_OF_SHARDS):
        raise _damaged(folder, f"index.json is not of format {FORMAT} or {FORMAT_OF_SHARDS}")
    for name, kind in required.items():
        if not isinstance(facts.get(name), kind):
            raise _damaged(folder, f"{name} = {facts.get(name)!r} in index.json")
    shards = facts.setdefault("shards", [facts["rows"]])  # earlier releases do not name them
    whole = isinstance(shards, list) and all(type(rows) is int and rows > 0 for rows in shards)
    if not whole or sum(shards) != facts["rows"] or facts["format"] != _format(facts):
        raise _damaged(folder, f"{facts['rows']} rows in shards of {shards!r:.80}, format {facts['format']}")
    return facts


def _format(facts: Mapping[str, Any]) -> int:
    return FORMAT if len(facts["shards"]) == 1 else FORMAT_OF_SHARDS


def _has_vectors(facts: Mapping[str, Any]) -> bool:
    """Whether the vectors are in a file of their own: ScaNN's has other numbers, or only a part."""
    return facts.get("stored", "float32") != "float32" or len(facts["shards"]) > 1


def _load_shard(files: Path, rows: int, folder: Path) -> Searcher:
    _check_assets(files, folder)
    try:
        searcher = load_searcher(files)
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(folder, str(error)) from error
    if searcher.size() != rows:
        raise _damaged(folder, f"{searcher.size()} rows in {files.relative_to(folder)}/, {rows} in index.json")
    return searcher


def _check_assets(files: Path, folder: Path) -> None:
    """Raise unless every file in ScaNN's list of assets exists in the folder of that list."""
    path = files / "scann_assets.pbtxt"
    try:
        names = re.findall(r'asset_path:\s*"([^"]*)"', path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{path.relative_to(folder)}: {error}") from error
    outside = [name for name in names if Path(name).name != name or not (files / name).is_file()]
    if outside or not names:
        shown = path.relative_to(folder)
        raise _damaged(folder, f"{shown} names {outside or 'no file'}, which is not in its folder")


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(
        "E_INDEX_DAMAGED", f"Expected an intact index in {folder}. Received: {what}. `anchorage run` builds a new one"
    )
