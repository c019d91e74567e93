"""Time every loss against pytorch-metric-learning and a lower bound: `python tests/benchmarks/losses.py`.

A step is a compiled forward and backward pass on one thread; its cost is the median CPU time of runs that alternate
between the two libraries. Each library runs in its own process with a memory limit, and in a second one that measures
the memory of the faster mode, see `workers/memory.py`. Our losses are timed as a graph, which `learner.compile()`
uses on a CPU, and with XLA, which it uses on a GPU and with `jit_compile=True`; the faster of the two counts. The
lower bound ("floor") is the product that a loss needs, with its gradients, in the faster mode: the similarity matrix
of the batch; the products of batch and proxies in the formula, for losses with proxies; or one inverse for the loss
on a graph.

The other library needs a separate environment, which inline metadata describes:

    uv venv pml && uv pip install --python pml/bin/python torch==2.13.0 pytorch-metric-learning==2.9.0
    python tests/benchmarks/losses.py --peer-python pml/bin/python

The bars: faster than the other library from 512 rows on and not slower at 128; losses over pairs at most 4 times the
floor at 2,048 rows; losses with proxies at most 2.5 times theirs at 512 rows and 10,000 classes; under 400 MiB at
2,048 rows.
"""

import argparse
import itertools
import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
from memory import MEASURABLE

WORKERS = Path(__file__).parent / "workers"
ROOT = Path(__file__).parents[2]
_ONE_TIMING = 20.0  # milliseconds, about; quicker steps are repeated
_MOST_SPENT = 5000.0  # milliseconds on one way of doing a case
_LONGEST = 600.0  # seconds; who has not answered by then has stuck, as XLA can where an allocation fails
PAIR_FLOOR, PROXY_FLOOR, INVERSE_FLOOR = "similarity matrix", "batch x proxies", "inverse"


class Case(NamedTuple):
    """A line of the table: a loss with settings, and the number of products of batch and classes in its formula.

    That is the number of proxies per class for most, of members for `ensemble`, twice the samples for `nivmf`, three
    for `pce` (logits, centers and similarities with the centers), and 0 for losses that compare the batch with itself.
    `per_class` is the number of rows per label that the loss requires, if any.
    """

    loss: str
    params: dict[str, Any] = {}  # noqa: RUF012 (never written to)
    products: int = 0
    per_class: int | None = None

    @property
    def floor(self) -> str:
        if self.loss == "manifold":
            return INVERSE_FLOOR
        return PROXY_FLOOR if self.products else PAIR_FLOOR


_NORMALISED = {"normalize": True, "normalize_weight": True}
CASES = {
    "angular": Case("angular"),
    "arcface": Case("arcface", products=1),
    "arcface, 3 sub-centers": Case("arcface", {"sub_centers": 3}, products=3),
    "balanced_contrastive": Case("balanced_contrastive"),
    "binomial_deviance": Case("binomial_deviance"),
    "cbml": Case("cbml"),
    "circle": Case("circle"),
    "contrastive": Case("contrastive"),
    "contrastive, snr": Case("contrastive", {"distance": "snr"}),
    "cosface": Case("cosface", products=1),
    "cross_batch_memory": Case("cross_batch_memory", {"memory_size": 2048}),
    "dynamic_soft_margin": Case("dynamic_soft_margin"),
    "ensemble": Case("ensemble", products=2),
    "fast_ap": Case("fast_ap"),
    "general_pair_weighting": Case("general_pair_weighting"),
    "generalized_lifted_structure": Case("generalized_lifted_structure"),
    "histogram": Case("histogram"),
    "hybrid": Case("hybrid", products=1),
    "instance": Case("instance"),
    "intra_pair_variance": Case("intra_pair_variance"),
    "lifted_structure": Case("lifted_structure"),
    "manifold": Case("manifold"),
    "margin": Case("margin", {"beta_per_class": False}),
    "margin, all pairs": Case("margin", {"mining": "all", "beta_per_class": False}),
    "mined": Case("mined"),
    "multi_proxy_anchor, 1 proxy": Case("multi_proxy_anchor", {"proxies_per_class": 1}, products=1),
    "multi_proxy_anchor, 2 proxies": Case("multi_proxy_anchor", {"proxies_per_class": 2}, products=2),
    "multi_similarity": Case("multi_similarity"),
    "n_pair": Case("n_pair"),
    "n_pair, 2 of a class": Case("n_pair", per_class=2),
    "nca": Case("nca"),
    "nivmf": Case("nivmf", products=10),
    "nt_xent": Case("nt_xent"),
    "p2s_grad": Case("p2s_grad", products=1),
    "pce": Case("pce", products=3),
    "pnp": Case("pnp"),
    "proxy_nca": Case("proxy_nca", products=1),
    "ranked_list": Case("ranked_list"),
    "regularized": Case("regularized", {"loss": {"name": "softmax", "params": _NORMALISED}}, products=1),
    "roadmap": Case("roadmap"),
    "self_supervised": Case("self_supervised", per_class=2),
    "smooth_ap": Case("smooth_ap"),
    "soft_triple": Case("soft_triple", products=10),
    "soft_triple, 2 centers": Case("soft_triple", {"centers_per_class": 2}, products=2),
    "softmax": Case("softmax", products=1),
    "softmax, normalised": Case("softmax", _NORMALISED, products=1),
    "soprc": Case("soprc"),
    "spce": Case("spce"),
    "sphereface": Case("sphereface", products=1),
    "sup_con": Case("sup_con"),
    "threshold_consistent_margin": Case("threshold_consistent_margin"),
    "triplet": Case("triplet"),
    "triplet, batch_hard": Case("triplet", {"mining": "batch_hard"}),
    "triplet, nearest_semi_hard": Case("triplet", {"mining": "nearest_semi_hard"}),
    "triplet, semi_hard": Case("triplet", {"mining": "semi_hard"}),
    "triplet, smooth": Case("triplet", {"smooth": True}),
    "triplet, squared": Case("triplet", {"distance": "squared_euclidean"}),
    "tuplet_margin": Case("tuplet_margin"),
    "vicreg": Case("vicreg", per_class=2),
}


class Worker:
    """A child process that serves requests; it is restarted if it dies."""

    def __init__(self, command: list[str], environment: Mapping[str, str] = MappingProxyType({})):
        self.command, self.environment = command, environment
        self.process: subprocess.Popen[str] | None = None

    def ask(self, **order: Any) -> dict[str, Any]:
        if self.process is None:
            sources = os.pathsep.join(str(ROOT / folder) for folder in ("models", "tests/helpers"))
            plain = {"PYTHONPATH": sources, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**plain, **self.environment},
            )
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], _LONGEST)[0]:
                self.process.kill()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code, self.process = self.process.wait(), None
            return {"error": f"died ({code}), likely out of memory"}
        return json.loads(answer)


def draw_batch(path: Path, rows: int, dim: int, classes: int, per_class: int, products: int) -> None:
    """Write noisy clusters, so that miners find pairs, with `per_class` adjacent rows of each label."""
    rng = np.random.default_rng(0)
    labels = np.sort(rng.permutation(classes)[np.arange(rows) // per_class]).astype("int32")
    centers = rng.normal(size=(classes, dim))
    embeddings = (centers[labels] + 1.5 * rng.normal(size=(rows, dim))).astype("float32")
    proxies = np.tile(centers.astype("float32"), (products, 1))
    np.savez(path, embeddings=embeddings, labels=labels, proxies=proxies)


class Library(NamedTuple):
    """The processes of a library: one for timing, and one configured for the measurement of memory."""

    timed: Worker
    measured: Worker

    @classmethod
    def start(cls, *command: str) -> "Library":
        return cls(Worker(list(command)), Worker(list(command), MEASURABLE))


class Run:
    """A mode of a case, prepared in the timing process; `times` are CPU milliseconds."""

    def __init__(self, library: Library, key: str, **order: Any):
        self.library, self.key, self.order = library, key, order
        self.times: list[float] = []
        self.mib = float("nan")
        first = library.timed.ask(do="prepare", key=key, **order)
        self.error = first.get("error")
        self.repeat = max(1, round(_ONE_TIMING / max(first.get("ms", 1e9), 1e-3)))

    def time(self) -> None:
        answer = self.library.timed.ask(do="time", key=self.key, repeat=self.repeat)
        self.error = self.error or answer.get("error")
        if not self.error:
            self.times.append(answer["ms"])

    def peak(self) -> None:
        measured = self.library.measured
        answer = measured.ask(do="prepare", key=self.key, **self.order)
        if "error" not in answer:
            answer = measured.ask(do="peak", key=self.key)
        self.error = self.error or answer.get("error")
        self.mib = answer.get("mib", float("nan"))
        measured.ask(do="forget")

    @property
    def ms(self) -> float:
        return statistics.median(self.times) if self.times and not self.error else float("nan")


def run_case(name: str, order: dict[str, Any], ours: Library, peer: Library | None, rounds: int) -> dict[str, Run]:
    """Prepare all modes of a case, time them alternately, then measure the memory of those in the table."""
    case = CASES[name]
    runs = {}
    for mode, xla in {"graph": False, "xla": True}.items():
        runs[mode] = Run(ours, mode, loss=case.loss, params=case.params, xla=xla, **order)
        runs[f"floor {mode}"] = Run(ours, f"floor {mode}", loss=case.floor, xla=xla, **order)
    if peer is not None:
        runs["peer"] = Run(peer, "peer", case=name, **order)
    spent = dict.fromkeys(runs, 0.0)
    for _ in range(rounds):
        for key, run in runs.items():
            if not run.error and spent[key] < _MOST_SPENT:  # the peer takes seconds for some
                run.time()
                spent[key] += run.times[-1] * run.repeat if run.times else 0.0
    for run in filter(None, (faster(runs), runs.get("peer"))):
        if not run.error:
            run.peak()
    for library in filter(None, (ours, peer)):
        library.timed.ask(do="forget")
    return runs


def faster(runs: dict[str, Run]) -> Run:
    """The faster of our graph and XLA modes; a failed mode counts as slower."""
    return min((runs["graph"], runs["xla"]), key=lambda run: (math.isnan(run.ms), run.ms))


def row_of(name: str, size: tuple[int, int, int], runs: dict[str, Run]) -> str:
    """A line of the table."""
    best, peer = faster(runs), runs.get("peer")
    floor = min(runs[f"floor {key}"].ms for key in ("graph", "xla"))
    cells = [name, *map(str, size), f"{runs['graph'].ms:.1f}", f"{runs['xla'].ms:.1f}", f"{best.ms / floor:.1f}"]
    cells += [f"{best.mib:.0f}"]
    if peer is None:
        cells += ["-", "-", "-"]
    elif peer.error:
        cells += [peer.error.replace("|", "/"), "-", "-"]
    else:
        cells += [f"{peer.ms:.1f}", f"{peer.ms / best.ms:.1f}", f"{peer.mib:.0f}"]
    return f"| {' | '.join(cells)} |" + (f" {best.error}" if best.error else "")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python with pytorch-metric-learning; without it ours alone are timed")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--rows", nargs="+", type=int, default=[128, 512, 2048])
    parser.add_argument("--dims", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--classes", nargs="+", type=int, default=[100, 10_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit-gib", type=float, default=8.0, help="cap on the data of either process")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    limit = str(options.limit_gib)
    ours = Library.start(sys.executable, str(WORKERS / "ours.py"), limit)
    peer = Library.start(options.peer_python, str(WORKERS / "peer.py"), limit) if options.peer_python else None
    known = peer.timed.ask(do="cases")["cases"] if peer else []
    print("| loss | N | D | C | graph ms | XLA ms | x floor | MiB | peer ms | x faster | peer MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    sizes = list(itertools.product(options.rows, options.dims, options.classes))
    with tempfile.TemporaryDirectory() as folder:
        for name, (rows, dim, classes) in itertools.product(options.cases, sizes):
            per_class = CASES[name].per_class or max(4, math.ceil(rows / classes))
            batch = Path(folder) / "batch.npz"
            draw_batch(batch, rows, dim, max(classes, rows // per_class), per_class, CASES[name].products)
            order = {"batch": str(batch), "classes": max(classes, rows // per_class)}
            runs = run_case(name, order, ours, peer if name in known else None, options.rounds)
            print(row_of(name, (rows, dim, classes), runs), flush=True)


if __name__ == "__main__":
    main()
