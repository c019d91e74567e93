"""Time filtered searches of `anchorage serve` over HTTP: `python tests/benchmarks/serving_filters.py`.

The release has the network of serving.py and a million vectors of index.py, in an index with fixed settings, with
random attributes that select 0.1, 1, 10 and 50 % of the rows. One client sends vectors, and JPEG pictures of 256 x 256
pixels, to `POST /v1/search`: without a filter, with a filter that was never used before, and with one of ten that were.
Each kind is timed in every round. Bars: recall@10 at least 0.99 against exact search among the rows that a filter
keeps, and a median of at most 3 times that without a filter.

The network is not trained, so that pictures only give times; recall is that of held-out vectors. One JSON document is
printed; serving.md reports a run.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import quote

import numpy as np
from index import REPEATED, ROUNDS, SHARES, TIMED, draw
from serving import DIMENSION, Client, Service, draw_pictures, percentiles, publish

LEAVES, SEARCHED, REORDERED = 2_000, 3, 30  # as index.py selects them for a million rows and a recall of 0.99
UNUSED = count()  # of values that no row has: they make another filter, which keeps the same rows


def make_release(folder: Path, gallery: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Publish the gallery in an index whose settings are given instead of chosen."""
    from anchorage.retrieval.index import Index
    from anchorage.retrieval.index_building import Plan, build_shard

    facts = {
        "kind": "tree_ah",
        "reason": "fixed settings of a benchmark",
        "rows": len(gallery),
        "shards": [len(gallery)],
        "shard_rows": len(gallery),
        "dimension": DIMENSION,
        "distance": "dot_product",
        "normalized": True,
        "neighbors": 10,
        "min_recall": 0.99,
        "leaves": LEAVES,
        "stored": "float32",
        "soar": 0,
        "leaves_to_search": SEARCHED,
        "reorder": REORDERED,
    }
    publish(folder, 1, Index(build_shard(gallery, 10, Plan(LEAVES)), facts), gallery, columns)


def request(query: np.ndarray | bytes, where: dict | None) -> tuple[str, bytes, str]:
    """Path, body and type of a search by a vector or a picture."""
    if isinstance(query, bytes):
        condition = "" if where is None else f"&filter={quote(json.dumps(where))}"
        return f"/v1/search?k=10{condition}", query, "image/jpeg"
    body = {"vector": query.tolist(), "k": 10, **({} if where is None else {"filter": where})}
    return "/v1/search", json.dumps(body).encode(), "application/json"


def keep(share: float, value: int, *others: str) -> dict:
    """The filter of one value of an attribute."""
    return {"attributes": {str(share): [str(value), *others]}}


def keep_new(share: float, value: int) -> dict:
    return keep(share, value, f"unused {next(UNUSED)}")


async def search(client: Client, query: np.ndarray | bytes, where: dict | None) -> tuple[float, list[int]]:
    """Milliseconds of a search, and the rows that it finds."""
    path, body, kind = request(query, where)
    started = time.perf_counter()
    status, answer = await client.ask("POST", path, body, kind)
    spent = 1000 * (time.perf_counter() - started)
    if status != 200:
        raise RuntimeError(f"Expected 200. Received: {status} {answer!r:.300}")
    return spent, [int(each["id"].removeprefix("id-")) for each in json.loads(answer)["results"]]


async def time_searches(client: Client, queries: list, share: float) -> dict:
    """Milliseconds of each kind of filter, and the median relative to that without a filter."""
    values = round(1 / share)
    repeated = [keep(share, value) for value in range(min(REPEATED, values))]
    for where in 3 * repeated:
        await search(client, queries[0], where)
    times: dict[str, list[float]] = {"none": [], "new": [], "repeated": []}
    for start in range(0, ROUNDS * TIMED, TIMED):
        for kind, found in times.items():
            for number in range(start, start + TIMED):
                filters = {"none": None, "new": keep_new(share, number % values)}
                where = filters.get(kind, repeated[number % len(repeated)])
                found.append((await search(client, queries[number % len(queries)], where))[0])
    medians = {kind: float(np.median(found)) for kind, found in times.items()}
    return {
        kind: {**percentiles(found), "times_unfiltered": round(medians[kind] / medians["none"], 2)}
        for kind, found in times.items()
    }


async def find_recall(
    client: Client, queries: np.ndarray, gallery: np.ndarray, rows: np.ndarray, find_filter: Callable[[], dict | None]
) -> float:
    """Recall@10 of searches that should find the nearest of some rows; the filter is made anew for each query."""
    from anchorage.retrieval.neighbors import nearest_neighbors

    truth = rows[nearest_neighbors(queries, gallery[rows], 10)[0]]
    shares = []
    for query, true in zip(queries, truth, strict=True):
        _, found = await search(client, query, find_filter())
        shares.append(len(np.intersect1d(found, true)) / 10)
    return round(float(np.mean(shares)), 4)


async def measure(service: Service, gallery: np.ndarray, queries: np.ndarray, columns: dict[str, np.ndarray]) -> dict:
    """What the filters of each share find, and how long they take."""
    client, pictures = Client(service.port), draw_pictures(32)
    everything = np.arange(len(gallery))
    result: dict = {"recall_without_filter": await find_recall(client, queries, gallery, everything, lambda: None)}
    for share in SHARES:
        first, _ = await search(client, queries[0], keep_new(share, 0))
        rows = np.flatnonzero(columns[str(share)] == "0")
        result[f"{100 * share:g} %"] = {
            "first_use_of_the_attribute_ms": round(first, 1),
            "recall_new": await find_recall(client, queries, gallery, rows, partial(keep_new, share, 0)),
            "recall_repeated": await find_recall(client, queries, gallery, rows, partial(keep, share, 0)),
            "by_vector": await time_searches(client, list(queries), share),
            "by_picture": await time_searches(client, pictures, share),
            "mebibytes": round(service.mebibytes()),
            "load": round(os.getloadavg()[0], 1),
        }
    client.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=2, help="services started one after the other (default: 2)")
    options = parser.parse_args()
    gallery, queries = draw(options.rows, ROUNDS * TIMED, DIMENSION)
    random, names = np.random.default_rng(0), np.arange(options.rows).astype(str).astype(object)
    columns = {str(share): names[random.integers(0, round(1 / share), options.rows)] for share in SHARES}
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        make_release(Path(folder), gallery, columns)
        for _ in range(options.runs):
            service = Service(Path(folder, "releases"))
            ready = {"seconds": round(service.ready_seconds, 1), "cpu_seconds": round(service.ready_cpu_seconds, 1)}
            ready["mebibytes"] = round(service.mebibytes())
            found = asyncio.run(measure(service, gallery, queries, columns))
            service.kill()
            runs.append({"ready": ready, **found})
    print(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
