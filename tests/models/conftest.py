"""A small world to train in: eight classes of coloured noise, eight others for validation."""

import numpy as np
import pytest

from models.data.store import Record, RecordStore, write_store

SETTINGS = {
    "encoder": {"name": "small", "embedding_size": 8, "params": {"widths": [4, 8]}},
    "loss": {"name": "multi_proxy_anchor", "params": {"proxies_per_class": 1}},
    "seed": 3,
    "verbose": 0,
}
TRAINING = {
    "epochs": 4,
    "steps_per_epoch": 5,
    "sampler": {"name": "class_batches", "params": {"classes": 4, "per_class": 2}},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "schedule": "linear", "rate_factors": {"proxies": 100.0}},
    "augmentation": {"shift": 0.1, "rotation": 10.0},
}


def draw_store(folder, seed, classes=8, per_class=6, size=16):
    random = np.random.default_rng(seed)

    def records():
        for number in range(classes):
            colour = random.uniform(40, 215, 3)
            for item in range(per_class):
                noise = random.normal(0, 40, (size, size, 3))
                image = np.clip(colour + noise, 0, 255).astype("uint8")
                yield Record(f"class-{number}/{item}.png", f"class-{number}", "both", image)

    write_store(folder, records(), size)
    return RecordStore(folder)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return draw_store(tmp_path_factory.mktemp("train"), seed=0)


@pytest.fixture(scope="session")
def validation_store(tmp_path_factory):
    return draw_store(tmp_path_factory.mktemp("val"), seed=1)


@pytest.fixture(scope="session")
def settings():
    """Makes the arguments of `train_run`, with some of the training section changed."""
    return lambda **training: {**SETTINGS, "training": {**TRAINING, **training}}
