# /// script
# dependencies = ["faiss-cpu==1.15.1", "hnswlib==0.8.0", "numpy>=2", "scann==1.4.2", "usearch==2.26.6"]
# ///
"""Time other nearest-neighbor libraries, and a dense sweep of ScaNN, for `../index.py`: one thread, CPU seconds.

Reads `gallery.npy`, `queries.npy` and `truth.npy` from the folder of the first argument; the others name what to time.
Prints one JSON line per library: the settings with the most queries per CPU second at each recall.
"""

import itertools
import json
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

_SHARES = (0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    gallery, queries, truth = (np.load(folder / f"{name}.npy") for name in ("gallery", "queries", "truth"))
    for name in names:
        start = time.process_time()
        searches = LIBRARIES[name](gallery)
        first = next(searches)  # builds
        built = time.process_time() - start
        points = [_measure(*each, queries, truth) for each in itertools.chain([first], searches)]
        best = {}
        for least in (0.95, 0.99):
            enough = [point for point in points if point["recall"] >= least]
            best[str(least)] = max(enough, key=lambda point: point["qps"], default=None)
        print(json.dumps({"library": name, "build_s": round(built, 1), "best": best}), flush=True)


def _measure(settings, search, queries, truth):
    found, spent = None, float("inf")
    for _ in range(3):
        start = time.process_time()
        found = search(queries)
        spent = min(spent, time.process_time() - start)
        if spent > 5:
            break
    recall = np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)])
    return {"settings": settings, "recall": round(float(recall), 4), "qps": round(len(queries) / spent)}


def faiss_ivf(gallery):
    """IVF, product quantization with fast scan, exact re-ranking."""
    import faiss

    faiss.omp_set_num_threads(1)
    lists = round(len(gallery) ** 0.5)
    codes = gallery.shape[1] // 2
    index = faiss.index_factory(gallery.shape[1], f"IVF{lists},PQ{codes}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    index.train(gallery[:250_000])
    index.add(gallery)
    base = faiss.downcast_index(index.base_index)

    def search(queries, probes, factor):
        base.nprobe, index.k_factor = probes, factor
        return index.search(queries, 10)[1]

    for share, factor in itertools.product(_SHARES, (2, 3, 4, 6, 9, 12, 20)):
        probes = max(1, round(lists * share))
        yield {"probes": probes, "k_factor": factor}, lambda q, p=probes, f=factor: search(q, p, f)


def faiss_hnsw(gallery):
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(gallery.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(gallery)

    def search(queries, breadth):
        index.hnsw.efSearch = breadth
        return index.search(queries, 10)[1]

    for breadth in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256):
        yield {"ef": breadth}, lambda q, b=breadth: search(q, b)


def hnswlib(gallery):
    import hnswlib as library

    index = library.Index("ip", gallery.shape[1])
    index.init_index(len(gallery), M=16, ef_construction=100)
    index.set_num_threads(1)
    index.add_items(gallery)

    def search(queries, breadth):
        index.set_ef(breadth)
        return index.knn_query(queries, 10)[0]

    for breadth in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256):
        yield {"ef": breadth}, lambda q, b=breadth: search(q, b)


def usearch(gallery):
    from usearch.index import Index

    index = Index(ndim=gallery.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(gallery)), gallery, threads=1)

    def search(queries, breadth):
        index.expansion_search = breadth
        return index.search(queries, 10, threads=1).keys

    for breadth in (16, 32, 64, 96, 128, 192, 256):
        yield {"expansion": breadth}, lambda q, b=breadth: search(q, b)


def scann_sweep(gallery):
    """Every combination of leaves, with and without SOAR, leaves to search and candidates to reorder."""
    from scann.scann_ops.py import scann_ops_pybind

    root = round(len(gallery) ** 0.5)
    for leaves, soar in itertools.product((root, 2 * root), (None, 1.5)):
        options = {} if soar is None else {"soar_lambda": soar}
        builder = scann_ops_pybind.builder(gallery, 10, "dot_product")
        tree = builder.tree(leaves, 10, training_sample_size=min(len(gallery), 250_000), **options)
        searcher = tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(60).build()

        def search(queries, searched, reorder, searcher=searcher):
            rows, _ = searcher.search_batched(queries, leaves_to_search=searched, pre_reorder_num_neighbors=reorder)
            return rows

        for share, reorder in itertools.product(_SHARES, (20, 30, 40, 60, 90, 120, 180, 250)):
            searched = max(1, round(leaves * share))
            settings = {"leaves": leaves, "soar": soar, "searched": searched, "reorder": reorder}
            yield settings, lambda q, s=searched, r=reorder, f=search: f(q, s, r)


LIBRARIES = {
    "faiss_ivf": faiss_ivf,
    "faiss_hnsw": faiss_hnsw,
    "hnswlib": hnswlib,
    "usearch": usearch,
    "scann_sweep": scann_sweep,
}

if __name__ == "__main__":
    main()
