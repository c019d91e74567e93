"""A small world to train in: eight classes of coloured noise, eight others for validation; published cases."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from backends import double_precision, pytest_sessionfinish  # noqa: F401 - a hook

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store

VECTORS = Path(__file__).parents[1] / "data" / "vectors"

SETTINGS = {
    "encoder": {"name": "small", "embedding_size": 8, "pooling": "avg", "params": {"widths": [4, 8]}},
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


# Folders whose tests compare with oracles in float64, and the files there that hold for a backend as it is by default.
_WITH_ORACLES = ("losses", "pairs", "proxies")
_AS_IT_IS = ("test_contract.py", "test_errors.py", "test_policies.py")


@pytest.fixture(autouse=True)
def _precision(request):
    with_oracles = request.path.parent.name in _WITH_ORACLES and request.path.name not in _AS_IT_IS
    with double_precision() if with_oracles else nullcontext():
        yield


def draw_store(folder, seed, classes=8, per_class=6, size=16):
    rng = np.random.default_rng(seed)

    def records():
        for number in range(classes):
            colour = rng.uniform(40, 215, 3)
            for item in range(per_class):
                noise = rng.normal(0, 40, (size, size, 3))
                image = np.clip(colour + noise, 0, 255).astype("uint8")
                yield Record(f"class-{number}/{item}.png", f"class-{number}", "both", image)

    write_store(folder, records(), RecordSpec(size))
    return RecordStore(folder)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return draw_store(tmp_path_factory.mktemp("train"), seed=0)


@pytest.fixture(scope="session")
def validation_store(tmp_path_factory):
    return draw_store(tmp_path_factory.mktemp("val"), seed=1)


@pytest.fixture(scope="session")
def uneven_store(tmp_path_factory):
    """259 images: three more than are embedded at once, of classes that the others lack."""
    return draw_store(tmp_path_factory.mktemp("uneven"), seed=2, classes=7, per_class=37)


@pytest.fixture(scope="session")
def settings():
    """Makes the arguments of `train_run`, with some of the training section changed."""
    return lambda **training: {**SETTINGS, "training": {**TRAINING, **training}}


@pytest.fixture(scope="session")
def build(settings):
    """Builds the learner of these settings, some of them changed, for data of eight classes."""
    from anchorage.data.store import RecordSpec
    from anchorage.training.building import DataFacts, build_training
    from anchorage.training.settings import RunSettings

    facts = DataFacts(np.repeat(np.arange(8), 6), [6] * 8, RecordSpec(16))

    def build(sections=None, **training):
        values = {key: value for key, value in settings(**training).items() if key != "verbose"}
        return build_training(RunSettings.from_dict({**values, **(sections or {})}), facts).learner

    return build


@pytest.fixture(scope="session")
def case():
    """A published case by the name of its file and its own."""
    return lambda file, name: next(c for c in json.loads((VECTORS / f"{file}.json").read_text()) if c["name"] == name)


def arrays(learner):
    from keras import ops

    return [(v.path, ops.convert_to_numpy(v)) for v in (*learner.variables, *learner.optimizer.variables)]


@pytest.fixture
def goes_on(store, validation_store, monkeypatch, tmp_path):
    """Trains with a checkpoint after each of `stops`, steps from the start, and goes on from each; asserts that all
    comes out equal.

    Both the learner that is given back, with the weights of its best epoch, and the newest checkpoint.
    """
    from anchorage.training.checkpoints import Checkpoints
    from anchorage.training.monitor import TrainingMonitor
    from anchorage.training.run import train_run

    def train(name, arguments):
        options = {"checkpoint_folder": tmp_path / name, "run_key": "a"}
        return train_run(store, validation_store, **arguments, **options)

    def newest(name):
        path = Checkpoints(tmp_path / name, "a").newest()
        return {(path.name, file.name): np.load(file) for file in sorted(path.glob("*.npz"))}

    def keep(patch, hook, stops):
        """Set aside what a training that is stopped in this hook leaves."""
        plain = getattr(TrainingMonitor, hook)

        def keeping(self, *arguments, **options):
            plain(self, *arguments, **options)
            inside_epoch = self.progress.step % self.context.steps_per_epoch > 0
            if self.progress.step in stops and inside_epoch == (hook == "on_train_batch_end"):
                self.checkpoints.save(self.model, self.progress)
                shutil.copytree(self.checkpoints.folder, tmp_path / f"stopped-{self.progress.step}")

        patch.setattr(TrainingMonitor, hook, keeping)

    def compare(arguments, stops):
        with monkeypatch.context() as patch:
            for hook in ("on_train_batch_end", "on_epoch_end"):
                keep(patch, hook, stops)
            straight, result = train("straight", arguments)
        for stop in stops:
            learner, again = train(f"stopped-{stop}", arguments)
            assert again.resumed_step == stop
            assert again.history == result.history
            for (path, found), (_, expected) in zip(arrays(learner), arrays(straight), strict=True):
                np.testing.assert_array_equal(found, expected, err_msg=path)
            found, expected = newest(f"stopped-{stop}"), newest("straight")
            assert list(found) == list(expected)
            for name, values in expected.items():
                assert found[name].files == values.files
                for key in values.files:
                    np.testing.assert_array_equal(found[name][key], values[key], err_msg=f"{name} {key}")
        return learner

    return compare
