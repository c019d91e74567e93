"""Time exact evaluation at the size of a large benchmark: `python tests/benchmarks/evaluation.py`.

The target: 60,502 vectors of 128 dimensions in 11,316 classes, all retrieval metrics, including those over the whole
gallery, within 20 CPU seconds and 1 GiB of extra memory. For comparison, it times alternately the matrix products alone
that every exact method needs, ScaNN's brute force, which finds the same neighbors without metrics, and, with `--peer
PYTHON`, pytorch-metric-learning's AccuracyCalculator with faiss, which computes three of the metrics.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from workers.memory import resident_peak

from anchorage.retrieval.index import search
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.metrics import evaluate_retrieval

METRICS = ("recall@1", "recall@10", "recall@100", "precision@10", "map@r", "r_precision", "ndcg@10", "map", "mrr")
SAME = {"precision_at_1": "recall@1", "r_precision": "r_precision", "mean_average_precision_at_r": "map@r"}
BLOCK = 512
WORKER = Path(__file__).parent / "workers" / "accuracy_calculator.py"


def clustered(rows: int, dim: int, classes: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around one center per class, in random order."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    rng.shuffle(labels)
    vectors = rng.normal(size=(classes, dim)).astype("float32")[labels]
    vectors += noise * rng.normal(size=vectors.shape).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, labels


def measure(work: Callable[[], object]) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and extra GiB at the peak."""
    cpu, wall = time.process_time(), time.perf_counter()
    mib = resident_peak(work)
    return time.process_time() - cpu, time.perf_counter() - wall, mib / 2**10


def ask_peer(python: str, vectors: np.ndarray, labels: np.ndarray) -> dict:
    """Costs and values of pytorch-metric-learning, in a separate process and environment."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "space.npz", vectors=vectors, labels=labels)
        done = subprocess.run([python, WORKER, Path(folder) / "space.npz"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_502)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--classes", type=int, default=11_316)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--noise", type=float, default=1.6, help="relative spread of a class (default: %(default)s)")
    parser.add_argument("--peer", help="Python with pytorch-metric-learning and faiss (default: no comparison)")
    options = parser.parse_args()
    vectors, labels = clustered(options.rows, options.dim, options.classes, options.noise)
    values = evaluate_retrieval(vectors[:2000], labels[:2000] % 100, metrics=METRICS).values  # warm up
    brute = build_index(vectors[:100])
    from scann.scann_ops.py import scann_ops_pybind

    searcher = scann_ops_pybind.builder(vectors, 101, "dot_product").score_brute_force().build()
    brute = type(brute)(searcher, {**brute.facts, "rows": len(vectors)})
    buffer = np.empty((BLOCK, len(vectors)), np.float32)

    def products() -> None:
        for first in range(0, len(vectors), BLOCK):
            block = vectors[first : first + BLOCK]
            np.matmul(block, vectors.T, out=buffer[: len(block)])

    def neighbors() -> None:
        for first in range(0, len(vectors), BLOCK):
            search(brute, vectors[first : first + BLOCK], 101)

    def metrics() -> None:
        values.update(evaluate_retrieval(vectors, labels, metrics=METRICS).values)

    contestants = {
        "matrix products alone": products,
        "ScaNN brute force, 101 nearest": neighbors,
        "all metrics": metrics,
    }
    best: dict[str, tuple[float, float, float]] = {}
    peer: dict = {}
    if options.peer:
        contestants["pytorch-metric-learning"] = lambda: peer.update(ask_peer(options.peer, vectors, labels))
    for number in range(options.rounds):
        for name, work in contestants.items():
            cpu, wall, extra = measure(work)
            if name == "pytorch-metric-learning":
                cpu, wall, extra = peer["costs"]
            best[name] = min(best.get(name, (cpu, wall, extra)), (cpu, wall, extra))
            print(
                f"round {number + 1}: {name:32} {cpu:6.1f} CPU s {wall:6.1f} s wall {extra:6.2f} GiB extra", flush=True
            )
    floor = best["matrix products alone"][0]
    print(f"\n{options.rows:,} x {options.dim}, {options.classes:,} classes; best of {options.rounds}:")
    for name, (cpu, wall, extra) in best.items():
        print(
            f"{name:32} {cpu:6.1f} CPU s = {cpu / floor:.2f} x the products; {wall:.1f} s wall; {extra:.2f} GiB extra"
        )
    print("  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    for theirs, ours in SAME.items() if peer else ():
        print(f"{ours}: {values[ours]:.10f}, pytorch-metric-learning {peer['values'][theirs]:.10f}")


if __name__ == "__main__":
    main()
