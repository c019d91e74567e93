import pytest

from anchorage_pipeline.comparison.settings import Comparison


@pytest.fixture
def document():
    """An experiment as a plain document."""
    return {
        "name": "toy",
        "data": {"path": "images", "image_size": 16},
        "encoder": {"name": "small", "embedding_size": 8, "params": {"widths": [4, 8]}},
        "loss": {"name": "contrastive"},
        "training": {
            "epochs": 2,
            "steps_per_epoch": 4,
            "augmentation": {},
            "sampler": {"name": "class_batches", "params": {"classes": 4, "per_class": 2}},
        },
    }


@pytest.fixture
def make():
    """A comparison of the given entries."""

    def make(*entries, **settings):
        return Comparison.model_validate(
            {"name": "c", "experiment": "toy.toml", "folds": 4, "entries": list(entries), **settings}
        )

    return make
