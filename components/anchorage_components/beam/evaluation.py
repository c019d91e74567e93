"""Exact retrieval metrics of a large gallery: Beam searches its shards in parallel and merges the results.

The results equal those of `anchorage.retrieval.metrics.evaluate_retrieval`: similarities are exact, metrics are
expected values over the orders of tied items, and ties in a list are sorted by split, label and id. Each shard of the
gallery is one Parquet file, read by one worker; only the queries, sampled if there are many, are read by every worker.
Metrics over the whole gallery (`map`, `mrr`) need a second pass, which counts the items ranked before each relevant
item.
"""

import functools
import heapq
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from anchorage.errors import DataError, UsageError
from anchorage.files import replace_file
from anchorage.progress import advance, task
from anchorage.retrieval.metrics import parse_metric
from anchorage.retrieval.neighbors import Exclusions, Ranking, Space, rank_block
from anchorage.retrieval.relevance import ClassRelevance
from anchorage.retrieval.table import TEXT_COLUMNS, Embeddings, read_columns, read_table, table_files, write_table
from anchorage.retrieval.ties import count_before, rank_hits, sort_groups, tie_groups
from anchorage_components.beam.options import beam_options
from anchorage_components.beam.running import bounded

QUERIES, METRICS, NEIGHBORS = "queries.parquet", "metrics.json", "neighbors.parquet"

# Functions that Beam runs have no NamedTuple type hints, since Beam would convert these tuples into rows.
_TASK = "shards"
_BLOCK = 256  # queries per merge
_LIMIT = 24 * 3600.0  # seconds; workers in other processes report no progress, so this limits each pass
_TO_R = {"map@r", "r_precision"}


class Plan(NamedTuple):
    """Settings for all workers.

    Args:
        queries: path of the table of queries, sorted by block.
        depths: number of neighbors to find for the queries of each block.
        relevant: number of relevant items of each query in the whole gallery.
        metrics: names of the metrics.
        keep: number of neighbors to write per query.
    """

    queries: str
    depths: tuple[int, ...]
    relevant: tuple[int, ...]
    metrics: tuple[str, ...]
    keep: int

    @property
    def whole(self) -> bool:
        return any(parse_metric(name)[0].whole for name in self.metrics)


class Lists(NamedTuple):
    """Neighbors of some queries, in any order.

    Args:
        queries: `(n,)` int64 row of the query.
        similarities: `(n,)` float32 exact similarity.
        keys: `(n,)` object, sort key for ties.
        ids: `(n,)` object, id of the neighbor.
        hits: `(n,)` bool, whether the neighbor is relevant.
    """

    queries: np.ndarray
    similarities: np.ndarray
    keys: np.ndarray
    ids: np.ndarray
    hits: np.ndarray

    def select(self, rows: np.ndarray) -> "Lists":
        """Select some of the entries."""
        return Lists(*(part[rows] for part in self))


def evaluate_at_scale(
    gallery: str | os.PathLike,
    output: str | os.PathLike,
    *,
    metrics: Sequence[str],
    queries: str | os.PathLike | None = None,
    sample: int = 10_000,
    keep_neighbors: int = 10,
    seed: int = 0,
    beam_args: Sequence[str] = (),
) -> dict[str, Any]:
    """Compute the retrieval metrics of an embedding table without holding the gallery in memory.

    Args:
        gallery: folder of an embedding table; its Parquet files are the shards, and its rows with role "gallery" or
            "both" are the gallery.
        output: folder, accessible to the workers, for `queries.parquet`, `metrics.json` (the returned value) and
            `neighbors.parquet` (query, rank, id, similarity).
        metrics: names of metrics of `evaluate_retrieval`, except graded ones.
        queries: table of queries; None takes the rows of `gallery` with role "query" or "both".
        sample: maximum number of queries; if there are more, they are sampled by a hash of seed and id.
        keep_neighbors: number of neighbors to write per query.
        seed: seed of the sample.
        beam_args: options for Beam, such as `--runner=...`; empty runs one worker in this process.

    Returns:
        A dict with `values` (mean of each metric), and the counts `queries`, `skipped`, `all_queries` and `gallery`.

    Raises:
        DataError: `E_NO_RELEVANT`, `E_LABELS` for a query without a label, and the errors of reading the tables.
        UsageError: for unknown and graded metrics, `E_TOO_FEW_NEIGHBORS` if the gallery is too small, and
            `E_BEAM_OPTION` for an unknown option.
    """
    cutoffs = {name: parse_metric(name)[1] for name in metrics}
    if graded := [name for name in metrics if name.startswith("graded")]:
        raise UsageError("E_METRIC_UNKNOWN", f"Expected metrics of binary relevance. Received: {graded}")
    options = beam_options(beam_args)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    shards = [str(file) for file in table_files(Path(gallery))]
    sampled, all_queries = _sample(table_files(Path(queries or gallery)), sample, seed)
    with bounded(options, _LIMIT) as pipeline:
        _ = (
            _spread(pipeline, shards)
            | "Count" >> beam.Map(_count, frozenset(sampled.labels.tolist()))
            | "GatherCounts" >> beam.combiners.ToList()
            | "WriteCounts" >> beam.Map(_write_counts, str(output / "counts.json"))
        )
    counts = json.loads((output / "counts.json").read_text(encoding="utf-8"))
    plan, skipped = _plan(sampled, counts, cutoffs, keep_neighbors, output)
    with task(_TASK, len(shards)), bounded(options, _LIMIT) as pipeline:
        search = "Search" >> beam.FlatMap(_search, plan).with_outputs("relevant", main="lists")
        results = _spread(pipeline, shards) | search
        merged = results.lists | "Merge" >> beam.CombinePerKey(functools.partial(_merge, plan))
        if plan.whole:
            relevant = results.relevant | "GatherRelevant" >> beam.CombinePerKey(_concatenate)
            before = (
                _spread(pipeline, shards, "Again")
                | "CountBefore" >> beam.FlatMap(_count_before, plan, beam.pvalue.AsDict(relevant))
                | "SumBefore" >> beam.CombinePerKey(sum)
            )
            blocks = {"lists": merged, "relevant": relevant, "before": before} | beam.CoGroupByKey()
        else:
            blocks = {"lists": merged} | beam.CoGroupByKey()
        _ = (
            blocks
            | "Measure" >> beam.Map(_measure, plan)
            | "GatherBlocks" >> beam.combiners.ToList()
            | "Write" >> beam.Map(_write, plan, str(output))
        )
    values = json.loads((output / METRICS).read_text(encoding="utf-8"))
    result = {**values, "skipped": skipped, "all_queries": all_queries, "gallery": counts["gallery"]}
    replace_file(output / METRICS, json.dumps(result, indent=1).encode())
    return result


def _spread(pipeline: beam.Pipeline, shards: list[str], name: str = "") -> beam.PCollection:
    return pipeline | f"Shards{name}" >> beam.Create(shards) | f"Spread{name}" >> beam.Reshuffle()


def _sample(files: Sequence[Path], sample: int, seed: int) -> tuple[Embeddings, int]:
    """Sample the queries with the smallest hashes, keeping only these in memory; also returns the number of all."""
    heap: list[tuple[int, str]] = []
    total = 0
    for file in files:
        table = read_columns(file, ("id", "role"))
        for id_, role in zip(table["id"].to_pylist(), table["role"].to_pylist(), strict=True):
            if role == "gallery":
                continue
            total += 1
            entry = (-zlib.crc32(f"{seed}/{id_}".encode()), id_)
            if len(heap) < sample:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                heapq.heapreplace(heap, entry)
    chosen, parts = {id_ for _, id_ in heap}, []
    for file in files:
        table = read_table(file)
        parts.append(table.select(np.array([id_ in chosen for id_ in table.ids.tolist()], bool)))
    ids, labels, roles, splits = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "labels", "roles", "splits")
    )
    if not labels.all():
        raise DataError(
            "E_LABELS",
            f"Expected a label for every query in {files[0]}. Received: {int((labels == '').sum())} without one, "
            "as in tables of `anchorage embed`. Fill the column `label`",
        )
    sampled = Embeddings(ids, labels, roles, splits, np.concatenate([part.vectors for part in parts]))
    return sampled.select(np.lexsort((sampled.ids.astype(str),))), total


def _count(file: str, labels: frozenset[str]) -> Any:
    """Number of gallery rows of a shard, and their number for each of the given labels."""
    table = read_columns(Path(file), ("label", "role"))
    gallery = [
        label
        for label, role in zip(table["label"].to_pylist(), table["role"].to_pylist(), strict=True)
        if role != "query"
    ]
    present, counts = np.unique(np.array([label for label in gallery if label in labels], object), return_counts=True)
    return len(gallery), dict(zip(present.tolist(), counts.tolist(), strict=True))


def _write_counts(results: Any, path: str) -> None:
    sizes: dict[str, int] = {}
    for _, label_counts in results:
        for label, count in label_counts.items():
            sizes[label] = sizes.get(label, 0) + count
    replace_file(Path(path), json.dumps({"gallery": sum(rows for rows, _ in results), "sizes": sizes}).encode())


def _plan(
    queries: Embeddings, counts: dict[str, Any], cutoffs: dict[str, int], keep: int, output: Path
) -> tuple[Plan, int]:
    """Write the queries with relevant items, sorted by search depth; return the plan and the number of the others."""
    in_gallery = queries.roles != "query"
    relevant = np.array([counts["sizes"].get(label, 0) for label in queries.labels.tolist()], np.int64) - in_gallery
    if not (relevant > 0).any():
        raise DataError(
            "E_NO_RELEVANT",
            f"Expected at least one query with another item of its class in the gallery. Received: {len(queries)} "
            f"queries, {counts['gallery']} gallery items, none relevant. Check labels and roles",
        )
    available = counts["gallery"] - int(in_gallery.any())
    for name, k in cutoffs.items():
        if k > available:
            raise UsageError(
                "E_TOO_FEW_NEIGHBORS",
                f"Expected at least {k} gallery items to compare a query with, for {name}. Received: {available}",
            )
    keep = min(keep, available)
    min_depth = max([1, keep, *cutoffs.values()])
    depths = np.maximum(relevant if _TO_R & set(cutoffs) else np.zeros_like(relevant), min_depth)
    order = np.argsort(depths, kind="stable")
    order = order[relevant[order] > 0]
    write_table(output / QUERIES, queries.select(order))
    ends = [min(first + _BLOCK, len(order)) - 1 for first in range(0, len(order), _BLOCK)]
    plan = Plan(
        queries=str(output / QUERIES),
        depths=tuple(int(depths[order[end]]) for end in ends),
        relevant=tuple(relevant[order].tolist()),
        metrics=tuple(cutoffs),
        keep=keep,
    )
    return plan, len(queries) - len(order)


@functools.lru_cache(maxsize=1)
def _read_queries(path: str) -> Embeddings:
    """Read the queries in the order of the file."""
    table = parquet.ParquetFile(path).read()
    vectors = table["vector"].combine_chunks()
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    ids, labels, roles, splits = (table[name].to_numpy(zero_copy_only=False) for name in TEXT_COLUMNS)
    return Embeddings(ids, labels, roles, splits, np.ascontiguousarray(matrix, np.float32))


def _open(plan: Plan, file: str) -> tuple[Embeddings, Embeddings, Space]:
    """The queries, the gallery rows of a shard, and a search space of both that excludes the self-matches."""
    queries, table = _read_queries(plan.queries), read_table(file)
    shard = table.select(table.roles != "query")
    rows = {id_: row for row, id_ in enumerate(shard.ids.tolist())}
    own = np.array([rows.get(id_, -1) for id_ in queries.ids.tolist()], np.int64)
    return queries, shard, Space(queries.vectors, shard.vectors, Exclusions(own))


def _blocks(plan: Plan) -> Iterator[tuple[int, np.ndarray, int]]:
    """Number, query rows and depth of each block."""
    for number, depth in enumerate(plan.depths):
        yield number, np.arange(number * _BLOCK, min((number + 1) * _BLOCK, len(plan.relevant))), depth


def _search(file: str, plan: Plan) -> Iterator[Any]:
    """Neighbors in a shard for each block, and, as the output "relevant", similarities of the relevant items."""
    queries, shard, space = _open(plan, file)
    keys = np.array(["\0".join(row) for row in zip(shard.splits, shard.labels, shard.ids, strict=True)], object)
    limits = np.repeat(plan.depths, _BLOCK)[: len(queries)]
    per_query = np.minimum(limits, space.available)
    rankings = (part for block in space.blocks(np.maximum(per_query, 1), _BLOCK) for part in rank_block(space, block))
    for ranking in rankings if space.available.min() > 0 else ():
        rows = ranking.queries[ranking.places]
        hits = queries.labels[rows] == shard.labels[ranking.rows]
        exact = space.exact(rows, ranking.rows)
        lists = Lists(rows, exact, keys[ranking.rows], shard.ids[ranking.rows], hits)
        for number in np.unique(rows // _BLOCK).tolist():
            yield number, lists.select(rows // _BLOCK == number)
    if plan.whole:
        yield from _relevant(queries, shard, space)
    advance(_TASK)


def _relevant(queries: Embeddings, shard: Embeddings, space: Space) -> Iterator[Any]:
    codes = np.unique(np.concatenate([queries.labels, shard.labels]), return_inverse=True)[1]
    relevance = ClassRelevance(codes[: len(queries)], codes[len(queries) :], space.exclusions)
    query_rows, rows = relevance.items(np.arange(len(queries)))
    exact = space.exact(query_rows, rows)
    for number in np.unique(query_rows // _BLOCK).tolist():
        in_block = query_rows // _BLOCK == number
        yield beam.pvalue.TaggedOutput("relevant", (number, (query_rows[in_block], exact[in_block])))


def _merge(plan: Plan, parts: Any) -> Any:
    """Merge neighbor lists of a block: the nearest up to its depth, and all ties of the last one."""
    parts = list(parts)
    lists = Lists(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else None
    if lists is None or not len(lists.queries):
        return Lists(*(np.empty(0, kind) for kind in (np.int64, np.float32, object, object, bool)))
    depth = plan.depths[int(lists.queries[0]) // _BLOCK]
    keys = pa.array(lists.keys.tolist(), pa.string())
    columns = {"query": lists.queries, "distance": -lists.similarities, "key": keys}
    order = pa.compute.sort_indices(pa.table(columns), [(name, "ascending") for name in columns]).to_numpy()
    lists = lists.select(order.astype(np.int64))
    starts = np.searchsorted(lists.queries, lists.queries)
    last = lists.similarities[np.minimum(starts + depth - 1, len(lists.queries) - 1)]
    rank = np.arange(len(starts)) - starts
    return lists.select((rank < depth) | (lists.similarities == last))


def _concatenate(parts: Any) -> Any:
    """Concatenate the relevant items of several shards."""
    parts = list(parts)
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    queries, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return queries, values


def _count_before(file: str, plan: Plan, relevant: Any) -> Iterator[Any]:
    """Number of items of a shard before, and tied with, each group of relevant items: `(2, groups)` per block."""
    _, _, space = _open(plan, file)
    for block in space.blocks(np.minimum(np.ones(len(plan.relevant), np.int64), space.available), _BLOCK):
        order = np.argsort(block.queries)
        for number in np.unique(block.queries // _BLOCK).tolist():
            query_rows, values, _ = tie_groups(*relevant[number])
            in_block = np.isin(query_rows, block.queries)
            places = order[np.searchsorted(block.queries[order], query_rows[in_block])]
            counts = np.zeros((2, len(query_rows)), np.int64)
            counts[:, in_block] = count_before(space, block.queries, block.similarities, places, values[in_block])
            yield number, counts


def _measure(block_results: Any, plan: Plan) -> Any:
    """The queries of a block, their metrics, and the neighbors to write."""
    number, results = block_results
    (lists,) = results["lists"]
    _, queries, depth = next(block for block in _blocks(plan) if block[0] == number)
    starts = np.searchsorted(lists.queries, np.append(queries, queries[-1] + 1))
    ranking = Ranking(queries, depth, starts, np.arange(len(lists.queries)), lists.similarities)
    counts = np.array(plan.relevant, np.int64)[queries][:, None]
    ranked = rank_hits(ranking, lists.hits.astype(np.int64), 1, counts)
    if plan.whole:
        query_rows, _, members = tie_groups(*results["relevant"][0])
        before, tied = results["before"][0]
        ranked = ranked._replace(groups=sort_groups(query_rows - queries[0], before, tied, members))
    values = {}
    for name in plan.metrics:
        metric, k = parse_metric(name)
        values[name] = metric.compute(ranked, k)
    return queries, values, lists.select((starts[:-1, None] + np.arange(plan.keep)).ravel())


def _write(blocks: Any, plan: Plan, folder: str) -> None:
    blocks = sorted(blocks, key=lambda block: int(block[0][0]))
    values = {name: float(np.concatenate([part[name] for _, part, _ in blocks]).mean()) for name in plan.metrics}
    ids = _read_queries(plan.queries).ids
    lists = Lists(*(np.concatenate(column) for column in zip(*(part for _, _, part in blocks), strict=True)))
    columns = {
        "query": pa.array(ids[lists.queries].tolist(), pa.string()),
        "rank": pa.array(np.tile(np.arange(1, plan.keep + 1), len(plan.relevant))),
        "id": pa.array(lists.ids.tolist(), pa.string()),
        "similarity": pa.array(lists.similarities),
    }
    parquet.write_table(pa.table(columns), Path(folder) / NEIGHBORS)
    result = {"values": values, "queries": len(plan.relevant)}
    replace_file(Path(folder) / METRICS, json.dumps(result).encode())
