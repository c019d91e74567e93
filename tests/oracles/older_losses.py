"""Writes the losses of an earlier commit as its `.keras` files hold them, with what they cost.

In a worktree of that commit, in the environment of this project:

PYTHONPATH=models KERAS_BACKEND=tensorflow python .../tests/oracles/older_losses.py > .../tests/data/older_settings.json
"""

import json
import sys
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np

from anchorage.losses import create_loss

TESTS = Path.cwd() / "tests" / "data"
DEFAULTS = json.loads((TESTS / "older_losses.json").read_text())
SETTINGS = json.loads((TESTS / "loss_settings.json").read_text())
CLASSES, DIM = 4, 8
X, LABELS = np.random.default_rng(0).normal(size=(8, DIM)).astype("float32"), np.array([0, 0, 1, 1, 2, 2, 3, 3])


def weights_in_file(loss):
    """Shapes of the weights by their place in a file, below the loss."""
    embeddings, labels = keras.Input((DIM,)), keras.Input((), dtype="int32")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.weights.h5"
        keras.Model([embeddings, labels], loss(embeddings, labels)).save_weights(path)
        shapes = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: shapes.update({name: item.shape} if hasattr(item, "shape") else {}))
    return {name.split("/", 2)[2]: list(shape) for name, shape in sorted(shapes.items())}


def fill(loss):
    """Numbers for the weights that training changes, in place of random ones."""
    for weight in loss.trainable_variables:
        weight.assign(np.cos(1.0 + np.arange(np.prod(weight.shape))).reshape(weight.shape))


def main():
    lines = []
    for name, default in DEFAULTS.items():
        for params in ({}, *SETTINGS.get(name, ())):
            loss = create_loss(name, params, num_classes=CLASSES)
            config = keras.saving.serialize_keras_object(loss)["config"]
            changed = {k: v for k, v in config.items() if k not in ("name", "dtype") and v != default["config"].get(k)}
            places = weights_in_file(loss)
            fill(loss)
            cost = float(f"{float(loss(X, LABELS)):.9g}")
            lines.append(json.dumps([name, changed, places, cost]))
    sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
