"""Exact retrieval metrics for a gallery beyond one machine: the shards are searched with Beam, the answers merged.

The numbers are those of `anchorage.retrieval.metrics.evaluate_retrieval`: every similarity that orders a list is the
exact one, equal ones count by expectation, and ties in a list stand in the order of split, label and id, as in a table
that was read whole. Only the queries (a sample of them, where there are many) go to every worker; a shard of the
gallery is one Parquet file, read by one worker. Metrics over the whole gallery (`map`, `mrr`) take a
second pass, which counts how many items stand before each relevant one.
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
from anchorage.retrieval.metrics import parse_metric
from anchorage.retrieval.neighbors import Exclusions, Ranking, Space, rank_block
from anchorage.retrieval.relevance import ClassRelevance
from anchorage.retrieval.table import TEXT_COLUMNS, Embeddings, read_columns, read_table, table_files, write_table
from anchorage.retrieval.ties import count_before, rank_hits, sort_groups, tie_groups
from anchorage_components.beam.embedding import beam_options

QUERIES, METRICS, NEIGHBORS = "queries.parquet", "metrics.json", "neighbors.parquet"

# What goes through Beam has no type hints: it would take NamedTuples apart into rows.
_BLOCK = 256  # queries whose lists are merged by one worker
_TO_R = {"map@r", "r_precision"}


class Plan(NamedTuple):
    """What every worker needs to know; the queries themselves lie in a file.

    Args:
        queries: path of the table of queries, in the order of their blocks.
        depths: neighbours that each block needs.
        relevant: relevant items of each query in the whole gallery.
        metrics: names.
        keep: neighbours to tell of each query.
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
    """Neighbours of some queries, or relevant items of theirs: one entry each, in any order.

    Args:
        queries: `(n,)` int64.
        similarities: `(n,)` float32, exact.
        keys: `(n,)` object, what ties are ordered by; "" for relevant items.
        ids: `(n,)` object.
        hits: `(n,)` bool, whether the item is relevant.
    """

    queries: np.ndarray
    similarities: np.ndarray
    keys: np.ndarray
    ids: np.ndarray
    hits: np.ndarray

    def select(self, rows: np.ndarray) -> "Lists":
        """Some of the entries."""
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
    """Evaluate embeddings whose gallery no single machine need hold.

    Args:
        gallery: folder of an embedding table; its Parquet files are the shards, its rows of role "gallery" or "both"
            can be found.
        output: folder, reachable from the workers; gets `queries.parquet`, `metrics.json` (what is returned) and
            `neighbors.parquet` (query, rank, id, similarity).
        metrics: as for `evaluate_retrieval`, without graded ones.
        queries: a table of queries; None: the rows of the gallery's table of role "query" or "both".
        sample: most queries to ask; more are sampled by a hash of seed and id.
        keep_neighbors: neighbours per query that are written down.
        seed: of the sample.
        beam_args: flags for Beam, such as `--runner=...`; none: here, in this process.

    Returns:
        `values` (metric -> mean), `queries`, `skipped`, `all_queries`, `gallery`.

    Raises:
        DataError: `E_NO_RELEVANT`, `E_LABELS` for a query without a label, and what reading the tables raises.
        UsageError: for unknown and graded metrics, for more neighbours than the gallery can give, and
            `E_BEAM_OPTION` for a flag that Beam does not know.
    """
    wanted = {name: parse_metric(name)[1] for name in metrics}
    if graded := [name for name in metrics if name.startswith("graded")]:
        raise UsageError("E_METRIC_UNKNOWN", f"Expected metrics of right and wrong answers. Received: {graded}")
    options = beam_options(beam_args)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    shards = [str(file) for file in table_files(Path(gallery))]
    asked, all_queries = _sample(table_files(Path(queries or gallery)), sample, seed)
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            _spread(pipeline, shards)
            | "Count" >> beam.Map(_count, frozenset(asked.labels.tolist()))
            | "GatherCounts" >> beam.combiners.ToList()
            | "WriteCounts" >> beam.Map(_write_counts, str(output / "counts.json"))
        )
    counts = json.loads((output / "counts.json").read_text(encoding="utf-8"))
    plan, skipped = _plan(asked, counts, wanted, keep_neighbors, output)
    with beam.Pipeline(options=options) as pipeline:
        searched = "Search" >> beam.FlatMap(_search, plan).with_outputs("relevant", main="lists")
        found = _spread(pipeline, shards) | searched
        merged = found.lists | "Merge" >> beam.CombinePerKey(functools.partial(_merge, plan))
        if plan.whole:
            places = found.relevant | "GatherRelevant" >> beam.CombinePerKey(_join)
            side = beam.pvalue.AsDict(places)
            before = (
                _spread(pipeline, shards, "Again")
                | "Places" >> beam.FlatMap(_count_places, plan, side)
                | "SumPlaces" >> beam.CombinePerKey(sum)
            )
            joined = {"lists": merged, "relevant": places, "before": before} | beam.CoGroupByKey()
        else:
            joined = {"lists": merged} | beam.CoGroupByKey()
        _ = (
            joined
            | "Measure" >> beam.Map(_measure, plan)
            | "GatherBlocks" >> beam.combiners.ToList()
            | "Write" >> beam.Map(_write, plan, str(output))
        )
    values = json.loads((output / METRICS).read_text(encoding="utf-8"))
    told = {**values, "skipped": skipped, "all_queries": all_queries, "gallery": counts["gallery"]}
    replace_file(output / METRICS, json.dumps(told, indent=1).encode())
    return told


def _spread(pipeline: beam.Pipeline, shards: list[str], name: str = "") -> beam.PCollection:
    return pipeline | f"Shards{name}" >> beam.Create(shards) | f"Spread{name}" >> beam.Reshuffle()


def _sample(files: Sequence[Path], most: int, seed: int) -> tuple[Embeddings, int]:
    """The queries with the smallest hashes, whatever files they lie in; never more than those in memory at once."""
    heap: list[tuple[int, str]] = []
    asking = 0
    for file in files:
        table = read_columns(file, ("id", "role"))
        for id_, role in zip(table["id"].to_pylist(), table["role"].to_pylist(), strict=True):
            if role == "gallery":
                continue
            asking += 1
            entry = (-zlib.crc32(f"{seed}/{id_}".encode()), id_)
            if len(heap) < most:
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
    asked = Embeddings(ids, labels, roles, splits, np.concatenate([part.vectors for part in parts]))
    return asked.select(np.lexsort((asked.ids.astype(str),))), asking


def _count(file: str, labels: frozenset[str]) -> Any:
    """Gallery rows of a shard, and of those labels."""
    table = read_columns(Path(file), ("label", "role"))
    kept = [
        label
        for label, role in zip(table["label"].to_pylist(), table["role"].to_pylist(), strict=True)
        if role != "query"
    ]
    found, counts = np.unique(np.array([label for label in kept if label in labels], object), return_counts=True)
    return len(kept), dict(zip(found.tolist(), counts.tolist(), strict=True))


def _write_counts(results: Any, path: str) -> None:
    sizes: dict[str, int] = {}
    for _, found in results:
        for label, count in found.items():
            sizes[label] = sizes.get(label, 0) + count
    replace_file(Path(path), json.dumps({"gallery": sum(rows for rows, _ in results), "sizes": sizes}).encode())


def _plan(
    asked: Embeddings, counts: dict[str, Any], wanted: dict[str, int], keep: int, output: Path
) -> tuple[Plan, int]:
    """Queries with an answer, in the order of how deep they must look, and the depth of each block of them."""
    found_in = asked.roles != "query"
    relevant = np.array([counts["sizes"].get(label, 0) for label in asked.labels.tolist()], np.int64) - found_in
    if not (relevant > 0).any():
        raise DataError(
            "E_NO_RELEVANT",
            f"Expected at least one query with another item of its class in the gallery. Received: {len(asked)} "
            f"queries, {counts['gallery']} gallery items, none relevant. Check labels and roles",
        )
    available = counts["gallery"] - int(found_in.any())
    for name, k in wanted.items():
        if k > available:
            raise UsageError(
                "E_TOO_FEW_NEIGHBORS",
                f"Expected at least {k} gallery items to compare a query with, for {name}. Received: {available}",
            )
    keep = min(keep, available)
    least = max([1, keep, *wanted.values()])
    depths = np.maximum(relevant if _TO_R & set(wanted) else np.zeros_like(relevant), least)
    order = np.argsort(depths, kind="stable")
    order = order[relevant[order] > 0]
    write_table(output / QUERIES, asked.select(order))
    ends = [min(first + _BLOCK, len(order)) - 1 for first in range(0, len(order), _BLOCK)]
    plan = Plan(
        queries=str(output / QUERIES),
        depths=tuple(int(depths[order[end]]) for end in ends),
        relevant=tuple(relevant[order].tolist()),
        metrics=tuple(wanted),
        keep=keep,
    )
    return plan, len(asked) - len(order)


@functools.lru_cache(maxsize=1)
def _read_queries(path: str) -> Embeddings:
    """The queries in the order in which they were written."""
    table = parquet.ParquetFile(path).read()
    vectors = table["vector"].combine_chunks()
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    ids, labels, roles, splits = (table[name].to_numpy(zero_copy_only=False) for name in TEXT_COLUMNS)
    return Embeddings(ids, labels, roles, splits, np.ascontiguousarray(matrix, np.float32))


def _open(plan: Plan, file: str) -> tuple[Embeddings, Embeddings, Space]:
    """Queries, gallery rows of a shard, and both as a space in which no query meets itself."""
    queries, table = _read_queries(plan.queries), read_table(file)
    shard = table.select(table.roles != "query")
    place = {id_: row for row, id_ in enumerate(shard.ids.tolist())}
    own = np.array([place.get(id_, -1) for id_ in queries.ids.tolist()], np.int64)
    return queries, shard, Space(queries.vectors, shard.vectors, Exclusions(own))


def _blocks(plan: Plan) -> Iterator[tuple[int, np.ndarray, int]]:
    """Number, queries and depth of each block."""
    for number, depth in enumerate(plan.depths):
        yield number, np.arange(number * _BLOCK, min((number + 1) * _BLOCK, len(plan.relevant))), depth


def _search(file: str, plan: Plan) -> Iterator[Any]:
    """The shard's part of each block's lists, and on the side the similarities of relevant items."""
    queries, shard, space = _open(plan, file)
    keys = np.array(["\0".join(row) for row in zip(shard.splits, shard.labels, shard.ids, strict=True)], object)
    limits = np.repeat(plan.depths, _BLOCK)[: len(queries)]
    per_query = np.minimum(limits, space.available)
    rankings = (part for block in space.blocks(np.maximum(per_query, 1), _BLOCK) for part in rank_block(space, block))
    for ranking in rankings if space.available.min() > 0 else ():
        asked = ranking.queries[ranking.places]
        hits = queries.labels[asked] == shard.labels[ranking.rows]
        exact = space.exact(asked, ranking.rows)
        lists = Lists(asked, exact, keys[ranking.rows], shard.ids[ranking.rows], hits)
        for number in np.unique(asked // _BLOCK).tolist():
            yield number, lists.select(asked // _BLOCK == number)
    if plan.whole:
        yield from _relevant(queries, shard, space)


def _relevant(queries: Embeddings, shard: Embeddings, space: Space) -> Iterator[Any]:
    codes = np.unique(np.concatenate([queries.labels, shard.labels]), return_inverse=True)[1]
    relevance = ClassRelevance(codes[: len(queries)], codes[len(queries) :], space.exclusions)
    asked, rows = relevance.items(np.arange(len(queries)))
    exact = space.exact(asked, rows)
    for number in np.unique(asked // _BLOCK).tolist():
        mine = asked // _BLOCK == number
        yield beam.pvalue.TaggedOutput("relevant", (number, (asked[mine], exact[mine])))


def _merge(plan: Plan, parts: Any) -> Any:
    """The nearest of several lists of one block, as deep as it needs and with all ties of the last."""
    parts = list(parts)
    whole = Lists(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else None
    if whole is None or not len(whole.queries):
        return Lists(*(np.empty(0, kind) for kind in (np.int64, np.float32, object, object, bool)))
    depth = plan.depths[int(whole.queries[0]) // _BLOCK]
    columns = {"query": whole.queries, "far": -whole.similarities, "key": pa.array(whole.keys.tolist(), pa.string())}
    order = pa.compute.sort_indices(pa.table(columns), [(name, "ascending") for name in columns]).to_numpy()
    whole = whole.select(order.astype(np.int64))
    starts = np.searchsorted(whole.queries, whole.queries)
    last = whole.similarities[np.minimum(starts + depth - 1, len(whole.queries) - 1)]
    rank = np.arange(len(starts)) - starts
    return whole.select((rank < depth) | (whole.similarities == last))


def _join(parts: Any) -> Any:
    """Relevant items of several shards together."""
    parts = list(parts)
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    queries, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return queries, values


def _count_places(file: str, plan: Plan, relevant: Any) -> Iterator[Any]:
    """Items of the shard before and tied with each group of relevant items: `(2, groups)` a block."""
    _, _, space = _open(plan, file)
    for block in space.blocks(np.minimum(np.ones(len(plan.relevant), np.int64), space.available), _BLOCK):
        order = np.argsort(block.queries)
        for number in np.unique(block.queries // _BLOCK).tolist():
            asked, values, _ = tie_groups(*relevant[number])
            mine = np.isin(asked, block.queries)
            places = order[np.searchsorted(block.queries[order], asked[mine])]
            counted = np.zeros((2, len(asked)), np.int64)
            counted[:, mine] = count_before(space, block.queries, block.similarities, places, values[mine])
            yield number, counted


def _measure(joined: Any, plan: Plan) -> Any:
    """Queries of a block, their metrics, and the neighbours to tell."""
    number, found = joined
    (lists,) = found["lists"]
    _, queries, depth = next(block for block in _blocks(plan) if block[0] == number)
    starts = np.searchsorted(lists.queries, np.append(queries, queries[-1] + 1))
    ranking = Ranking(queries, depth, starts, np.arange(len(lists.queries)), lists.similarities)
    counts = np.array(plan.relevant, np.int64)[queries][:, None]
    ranked = rank_hits(ranking, lists.hits.astype(np.int64), 1, counts)
    if plan.whole:
        asked, _, members = tie_groups(*found["relevant"][0])
        before, tied = found["before"][0]
        ranked = ranked._replace(groups=sort_groups(asked - queries[0], before, tied, members))
    values = {}
    for name in plan.metrics:
        metric, k = parse_metric(name)
        values[name] = metric.compute(ranked, k)
    return queries, values, lists.select((starts[:-1, None] + np.arange(plan.keep)).ravel())


def _write(blocks: Any, plan: Plan, folder: str) -> None:
    blocks = sorted(blocks, key=lambda block: int(block[0][0]))
    values = {name: float(np.concatenate([found[name] for _, found, _ in blocks]).mean()) for name in plan.metrics}
    ids = _read_queries(plan.queries).ids
    lists = Lists(*(np.concatenate(column) for column in zip(*(part for _, _, part in blocks), strict=True)))
    columns = {
        "query": pa.array(ids[lists.queries].tolist(), pa.string()),
        "rank": pa.array(np.tile(np.arange(1, plan.keep + 1), len(plan.relevant))),
        "id": pa.array(lists.ids.tolist(), pa.string()),
        "similarity": pa.array(lists.similarities),
    }
    parquet.write_table(pa.table(columns), Path(folder) / NEIGHBORS)
    told = {"values": values, "queries": len(plan.relevant)}
    replace_file(Path(folder) / METRICS, json.dumps(told).encode())
