"""Time an epoch with and without cached features: `python tests/benchmarks/cached_features.py`.

The target: with a frozen EfficientNet-Lite0 at 96 pixels, an epoch on cached features takes a fiftieth of the time of
an epoch on images, or less. Both train the same head with the settings of the recipe; without the cache the images are
augmented and pass the trunk in every step. Validation, compilation and the making of the cache are excluded; the last
is printed. CPU times are printed, too: other load on the machine affects them less.
"""

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from workers.recipe import Clock, recipe_settings

from anchorage.data.batches import create_augmentation
from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.training.building import DataFacts, build_training
from anchorage.training.features import cached_features
from anchorage.training.fit import fit_learner

PER_CLASS = 16


def draw_store(folder, count, size):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, size, size, 3), dtype="uint8")
    records = (Record(f"{n:06d}", f"{n // PER_CLASS:05d}", "both", image) for n, image in enumerate(images))
    write_store(folder, records, RecordSpec(size))
    return RecordStore(folder)


def choose(options, store, cache):
    """The recipe's settings for a frozen trunk, with or without a cache."""
    encoder = {"name": options.encoder, "weights": options.weights, "frozen_norm": None, "cache": cache}
    rate_factors = {} if cache else {"trunk": 0.0}
    return recipe_settings(encoder, None, DataFacts.of(store).class_counts, rate_factors)


def epoch_times(settings, store, epochs):
    """Times of the epochs after the first, which compiles."""
    clock = Clock()
    learner, sampler, steps, _ = build_training(settings, DataFacts.of(store))
    augmentation = [] if settings.encoder.cache else create_augmentation(settings.training.augmentation)
    options = {"augmentation": augmentation, "callbacks": [clock], "verbose": 0}
    fit_learner(learner, store, None, sampler, epochs=epochs + 1, steps_per_epoch=steps, **options)
    return clock.wall[1:], clock.cpu[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = draw_store(folder, options.images, options.size)
        started = time.perf_counter()
        settings = choose(options, store, cache=True)
        with cached_features(store, None, settings, verbose=0) as features:
            making = time.perf_counter() - started
            cached = epoch_times(settings, features.store, 5 * options.epochs)
        plain = epoch_times(choose(options, store, cache=False), store, options.epochs)
    print(f"{options.encoder} at {options.size} pixels, {options.images} images; load {os.getloadavg()[0]:.1f}")
    print(f"making the cache: {making:.1f} s")
    for name, ours, theirs in zip(("wall", "CPU"), cached, plain, strict=True):
        ours, theirs = statistics.median(ours), statistics.median(theirs)
        print(f"{name:4} seconds of an epoch: {theirs:.3f} without, {ours:.4f} with the cache, ", end="")
        print(f"{theirs / ours:.0f} times faster")


if __name__ == "__main__":
    main()
