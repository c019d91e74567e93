"""Evaluate a million vectors with Beam and in memory: `python tests/benchmarks/evaluation_at_scale.py`.

Writes a table of 1,000,000 unit vectors of 128 dimensions in 50,000 classes as 40 Parquet files, evaluates 10,000
queries with Beam, one shard at a time, and with `evaluate_retrieval` on the whole table in memory, and compares the ids
of the neighbors and the metrics.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow.parquet as parquet
from evaluation import clustered

from anchorage.retrieval.metrics import evaluate_retrieval
from anchorage.retrieval.table import Embeddings, read_table, write_table
from anchorage_components.beam.evaluation import NEIGHBORS, QUERIES, evaluate_at_scale

METRICS = ("recall@1", "recall@10", "precision@10", "map@r", "r_precision", "ndcg@10", "map", "mrr")
SHARDS, KEPT = 40, 10


def write_shards(folder: Path, rows: int, dim: int, classes: int) -> None:
    """One Parquet file per shard."""
    vectors, labels = clustered(rows, dim, classes, noise=1.5)
    ids, names = ([f"image {row:07d}" for row in range(rows)], [f"class {label:05d}" for label in labels.tolist()])
    columns = (ids, names, ["both"] * rows, ["test"] * rows)
    table = Embeddings(*(np.array(column, object) for column in columns), vectors)
    for number, part in enumerate(np.array_split(np.arange(rows), SHARDS)):
        write_table(folder / f"vectors-{number:05d}.parquet", table.select(part))


def by_beam(folder: Path, output: Path, queries: int) -> dict:
    """Evaluate with Beam."""
    return evaluate_at_scale(folder, output, metrics=METRICS, sample=queries, keep_neighbors=KEPT)


def in_memory(folder: Path, output: Path) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Metrics, and ids of the neighbors by query, for the queries that Beam sampled."""
    table = read_table(folder)
    asked = set(read_table(output / QUERIES).ids.tolist())
    roles = np.array(["both" if id_ in asked else "gallery" for id_ in table.ids.tolist()], object)
    found = evaluate_retrieval(table.vectors, table.labels, roles, METRICS, keep_neighbors=KEPT)
    nearest = zip(found.query_rows, found.neighbor_rows, strict=True)
    return found.values, {table.ids[row]: table.ids[rows].tolist() for row, rows in nearest}


def neighbor_ids(output: Path) -> dict[str, list[str]]:
    """Ids of the neighbors by query, as Beam wrote them."""
    table, neighbors = parquet.read_table(output / NEIGHBORS), {}
    for query, id_ in zip(table["query"].to_pylist(), table["id"].to_pylist(), strict=True):
        neighbors.setdefault(query, []).append(id_)
    return neighbors


def measured(work: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """The result of a function, and its cost in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, work, arguments).result()


def _measure(work: Callable[..., Any], arguments: tuple) -> tuple[Any, str]:
    start, cpu = time.perf_counter(), time.process_time()
    found = work(*arguments)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found, f"{cpu:6.0f} CPU s  {wall:6.0f} s wall  {peak:5.1f} GiB at the peak"


def main() -> None:
    """Run both and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, output = Path(name) / "table", Path(name) / "out"
        folder.mkdir()
        measured(write_shards, folder, options.rows, 128, options.classes)
        print(f"{options.rows:,} x 128 in {options.classes:,} classes, {SHARDS} shards, seed 0")
        result, cost = measured(by_beam, folder, output, options.queries)
        print(f"Beam       {cost}  {result['queries']:,} queries")
        (values, nearest), cost = measured(in_memory, folder, output)
        print(f"in memory  {cost}")
        print(f"ids of the {KEPT} nearest: {'the same' if neighbor_ids(output) == nearest else 'DIFFERENT'}")
    for metric, value in values.items():
        print(f"{metric:13} {value:.9f}  difference {result['values'][metric] - value:+.1e}")


if __name__ == "__main__":
    main()
