"""Time the training loop against a bare `keras.Model.fit`: `python tests/benchmarks/training.py`.

The target: `fit_learner`, with records read from the store, augmentation and a checkpoint every epoch, trains at least
90 % of the images per second of a bare classifier with the same network on arrays in memory. Both train in one process
in alternating epochs, so that other load on the machine affects both. Validation is excluded.
"""

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from anchorage.data.batches import create_augmentation
from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.encoders import create_encoder
from anchorage.training.building import DataFacts, build_training
from anchorage.training.fit import fit_learner
from anchorage.training.settings import RunSettings

AUGMENTATION = {"shift": 0.06, "zoom": 0.12, "rotation": 11.0}
CLASSES = 100


class Turns(keras.callbacks.Callback):
    """Trains the bare model for an equal number of steps before every epoch, and records the times of both."""

    def __init__(self, bare):
        super().__init__()
        self.bare, self.bare_seconds, self.our_seconds = bare, [], []
        self.started = None

    def on_epoch_begin(self, epoch, logs=None):
        self._stop()
        start = time.perf_counter()
        self.bare()
        self.bare_seconds.append(time.perf_counter() - start)
        self.started = time.perf_counter()

    def on_train_end(self, logs=None):
        self._stop()

    def _stop(self):  # after the checkpoint of the epoch, which counts as training time
        if self.started is not None:
            self.our_seconds.append(time.perf_counter() - self.started)


def draw_store(folder, count, size):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, size, size, 3), dtype="uint8")
    write_store(
        folder,
        (Record(f"{n}", f"{n % CLASSES:03d}", "both", image) for n, image in enumerate(images)),
        RecordSpec(size),
    )
    return RecordStore(folder)


def bare_classifier(options, store):
    encoder = create_encoder(options.encoder, image_size=options.size, embedding_size=128, pooling="gem")
    model = keras.Sequential([encoder, keras.layers.Dense(CLASSES, dtype="float32")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.AdamW(1e-3), loss=loss)
    images, labels = store.read(np.arange(len(store))).astype("float32"), store.labels
    return lambda: model.fit(images, labels, batch_size=options.batch, verbose=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    keras.config.set_dtype_policy(options.precision)
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        store = draw_store(f"{folder}/store", options.batch * options.steps, options.size)
        turns = Turns(bare_classifier(options, store))
        values = {
            "encoder": {"name": options.encoder},
            "loss": {"name": "multi_proxy_anchor", "params": {"proxies_per_class": 1}},
            "training": {
                "epochs": options.rounds + 1,  # the first one compiles and is excluded
                "sampler": {"name": "shuffled_batches", "params": {"batch_size": options.batch}},
                "optimizer": {"name": "adamw", "learning_rate": 1e-3, "rate_factors": {"proxies": 100.0}},
            },
        }
        learner, sampler, *_ = build_training(RunSettings.from_dict(values), DataFacts.of(store))
        fit_learner(
            learner,
            store,
            None,
            sampler,
            epochs=options.rounds + 1,
            augmentation=create_augmentation(AUGMENTATION),
            checkpoint_folder=f"{folder}/checkpoints",
            callbacks=[turns],
            verbose=0,
        )
    images = options.batch * options.steps
    ratios = []
    for number, (bare, ours) in enumerate(zip(turns.bare_seconds[1:], turns.our_seconds[1:], strict=True), start=1):
        ratios.append(bare / ours)
        print(f"round {number}: bare {images / bare:6.1f} images/s, ours {images / ours:6.1f}, ratio {bare / ours:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f} (target: 0.90)")


if __name__ == "__main__":
    main()
