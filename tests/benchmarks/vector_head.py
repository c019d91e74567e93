"""Time the training of a head on vectors: `python tests/benchmarks/vector_head.py`.

The target: 20,000 rows per second or more on two cores, for 60,000 vectors of 512 numbers with the loss
multi-similarity, and all other settings by the recipe. The first epoch, which compiles, is excluded. The CPU time is
printed, too: other load on the machine affects it less. Two cores train at most twice the rows of a CPU second.
"""

import argparse
import os
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from workers.recipe import Clock, recipe_settings

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.training.building import DataFacts, build_training
from anchorage.training.fit import fit_learner


def draw_store(folder, rows, dimension, classes):
    """Classes with means of their own, in noise of the same size."""
    random = np.random.default_rng(0)
    labels = np.sort(np.arange(rows) % classes)
    means = random.normal(size=(classes, dimension)).astype("float32")

    def records():
        for row, label in enumerate(labels.tolist()):
            vector = means[label] + random.normal(size=dimension).astype("float32")
            yield Record(f"{row:07d}", f"{label:06d}", "both", vector)

    write_store(folder, records(), RecordSpec(dimension=dimension))
    return RecordStore(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--kind", default="linear")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = draw_store(folder, options.rows, options.dimension, options.classes)
        encoder = {"name": "head", "embedding_size": None, "frozen_norm": None, "params": {"kind": options.kind}}
        loss = {"name": "multi_similarity", "params": {}}
        settings = recipe_settings(encoder, loss, DataFacts.of(store).class_counts)
        learner, sampler, steps, _ = build_training(settings, DataFacts.of(store))
        clock, count = Clock(), options.epochs + 1
        shape = {"epochs": count, "steps_per_epoch": steps, "callbacks": [clock], "verbose": 0}
        fit_learner(learner, store, None, sampler, **shape)
    rows = steps * sampler.batch_size
    wall, cpu = statistics.median(clock.wall[1:]), statistics.median(clock.cpu[1:])
    print(f"{options.rows:,} x {options.dimension}, {options.kind}, {steps} steps of {sampler.batch_size} rows")
    print(f"{rows / wall:,.0f} rows/s (target: 20,000), {rows / cpu:,.0f} rows per CPU second", end="; ")
    print(f"fastest epoch {rows / min(clock.wall[1:]):,.0f} rows/s, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
