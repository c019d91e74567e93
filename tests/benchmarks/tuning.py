"""Compare the oracles of the hyperparameter search by the trials they need: `python tests/benchmarks/tuning.py`.

Two losses, four oracles, five seeds, and 16 trials per search. A trial trains a projection of 128 numbers on the
features that a frozen EfficientNet-Lite0 gives for the icons at 64 pixels (`anchorage data icons` first), and is scored
by the best MAP@R of its epochs on the validation classes, none of which is trained on. Every trial sees the same number
of samples, whatever its batch size, except those that Hyperband cuts short; the learning rate follows the square root
of the batch size. The seed of a search is also that of its trainings: the coordinate search draws nothing at random, so
that only the trainings tell its seeds apart.

A search is done when a trial comes within one point of MAP@R of the best value that any search of the same loss found.
The searches run in `--jobs` processes of one thread each; a second call resumes them, and with all of them done only
writes the page `tuning.md` and the picture `tuning.png` beside this script.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from workers.tuning_page import write_page

from anchorage.tuning.ranges import Range, Scalar
from anchorage.tuning.record import SEARCH, Search, read_search
from anchorage.tuning.settings import TuningSettings

HERE = Path(__file__).parent
RANDOM_START = "coordinate, random start"
ORACLES = ("coordinate", "random", "hyperband", "bayesian", RANDOM_START)
SEEDS = (1, 2, 3, 4, 5)
TRIALS = 16
# Keras Tuner would begin with 12 random trials under "bayesian", and end after 15 under "hyperband".
PARAMS = {"bayesian": {"num_initial_points": 5}, "hyperband": {"factor": 2, "hyperband_iterations": 2}}
EPOCHS, EPOCH_SAMPLES = 4, 2048
PER_CLASS, REFERENCE_CLASSES, REFERENCE_RATE = 4, 32, 1e-3
OVERRIDES = (
    "data.image_size=64",
    "data.val_share=0.3",
    'encoder.pooling="avg"',
    "encoder.cached_copies=0",
    "training.augmentation={}",
    "training.epochs=1",
    "seed=1",
)

CLASSES = "training.sampler.params.classes"
_BATCH = Range(CLASSES, choices=(8, 16, 32, 64), default=32)  # of 4 images each
# The defaults are those of the losses, and lie in the middle of their ranges.
SPACES = {
    "balanced_contrastive": [
        Range("loss.params.lam", low=0.01, high=100.0, sampling="log", default=1.0),
        Range("loss.params.margin", low=0.0, high=1.0, default=0.5),
        _BATCH,
        Range(
            "loss.params.aggregation",
            choices=("sum_per_anchor", "mean", "mean_nonzero", "anchor_mean", "anchor_mean_nonzero"),
            default="anchor_mean_nonzero",
        ),
    ],
    "multi_similarity": [
        Range("loss.params.alpha", low=0.2, high=20.0, sampling="log", default=2.0),
        Range("loss.params.beta", low=5.0, high=500.0, sampling="log", default=50.0),
        Range("loss.params.base", low=0.0, high=1.0, default=0.5),
        _BATCH,
    ],
}


class Case(NamedTuple):
    """A search of the study."""

    loss: str
    oracle: str
    seed: int

    def folder(self, work: Path) -> Path:
        return work / f"{self.loss}-{self.oracle.replace(', ', '-').replace(' ', '-')}-{self.seed}"

    def read(self, work: Path) -> Search | None:
        path = self.folder(work) / SEARCH
        return read_search(path) if path.exists() else None

    @property
    def settings(self) -> TuningSettings:
        return TuningSettings(
            oracle=self.oracle.partition(",")[0],
            params=PARAMS.get(self.oracle, {}),
            trials=TRIALS,
            epochs=EPOCHS,
            stop_early=False,
            repeats=0,
        )

    @property
    def space(self) -> list[Range]:
        """The ranges; with a random start, each begins at a value drawn with the seed."""
        space = SPACES[self.loss]
        if self.oracle != RANDOM_START:
            return space
        random = np.random.default_rng(self.seed)
        return [replace(item, default=_draw(item, random)) for item in space]


def _draw(item: Range, random: np.random.Generator) -> Scalar:
    if item.choices is not None:
        return item.choices[random.integers(len(item.choices))]
    low, high = item.ends
    if item.sampling == "log":
        return float(low * (high / low) ** random.random())
    return float(random.uniform(low, high))


CASES = [Case(loss, oracle, seed) for seed in SEEDS for loss in SPACES for oracle in ORACLES]


def run_lane(work: Path, lane: int, lanes: int) -> None:
    """Run every `lanes`-th of the missing searches in this process."""
    import tensorflow as tf
    from workers.head_training import HeadTrainings

    from anchorage.tuning.search import run_search

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    store, validation = open_features(work)
    trainings = {loss: HeadTrainings(store, validation, loss) for loss in SPACES}
    for case in CASES[lane::lanes]:
        if case.read(work):
            continue

        def train(values, report, case=case):
            curve = trainings[case.loss].train(**arguments(values), seed=case.seed)
            for epoch, value in enumerate(curve, 1):
                report(epoch * EPOCH_SAMPLES, value)
            return {"map@r": max(curve)}

        started = time.process_time()
        run_search(train, case.space, case.settings, seed=case.seed, folder=case.folder(work))
        print(f"{case.folder(work).name}: {time.process_time() - started:.0f} CPU s", flush=True)


def arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `HeadTrainings.train` takes for the values of a trial: equal samples, a rate by the size of the batch."""
    prefix = "loss.params."
    classes = values[CLASSES]
    return {
        "params": {path.removeprefix(prefix): value for path, value in values.items() if path.startswith(prefix)},
        "classes": classes,
        "per_class": PER_CLASS,
        "steps": EPOCH_SAMPLES // (classes * PER_CLASS),
        "epochs": values.get("training.epochs", EPOCHS),
        "rate": REFERENCE_RATE * (classes / REFERENCE_CLASSES) ** 0.5,
    }


def open_features(work: Path) -> tuple[Any, Any]:
    """The features of the training and of the validation classes; embedded by the first call."""
    from anchorage.training.features import cached_features
    from anchorage.training.run import choose_recipe
    from anchorage_pipeline.config import load_experiment
    from anchorage_pipeline.identity import training_settings
    from anchorage_pipeline.plain import open_splits

    experiment = load_experiment(HERE.parents[1] / "pipeline/experiments/cached.toml", OVERRIDES)
    _, [train, validation, _] = open_splits(experiment, work / "stores")
    settings, _ = choose_recipe(train, training_settings(experiment), verbose=0)
    with cached_features(train, validation, settings, work / "features", verbose=0) as features:
        return features.store, features.validation_store


def run_lanes(work: Path, lanes: int) -> None:
    command = [sys.executable, __file__, "--folder", str(work), "--jobs", str(lanes), "--lane"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = [subprocess.Popen([*command, str(lane)], env=environment) for lane in range(lanes)]
    try:
        failed = [child.wait() for child in children]
    finally:
        for child in children:
            child.terminate()
    if any(failed):
        raise SystemExit("a lane failed; the same command resumes")


def finished(work: Path) -> Iterator[tuple[Case, Search]]:
    for case in CASES:
        if search := case.read(work):
            yield case, search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/tuning-study"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--lane", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lane is not None:
        os.nice(10)
        run_lane(options.folder, options.lane, options.jobs)
        return
    if len(dict(finished(options.folder))) < len(CASES):
        run_lanes(options.folder, options.jobs)
    write_page({tuple(case): search for case, search in finished(options.folder)}, HERE)


if __name__ == "__main__":
    main()
