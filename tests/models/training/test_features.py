"""Cached features: they are what the trunk gives, made once, and a training on them is one with a frozen trunk."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from anchorage.data.batches import read_for_training
from anchorage.data.features import FeatureStore, write_features
from anchorage.data.store import Record, RecordSpec
from anchorage.data.subset import ClassSubset
from anchorage.errors import UsageError
from anchorage.inference import embed_store, predict_rows
from anchorage.procedures import run_training
from anchorage.training import features as cache
from anchorage.training.features import cached_features, check_cache, create_trunk
from anchorage.training.settings import RunSettings

OPTIMIZER = {"name": "adamw", "learning_rate": 1e-2}
WHITENED = [{"name": "whitened_start", "params": {}}]

ENCODER = {"name": "trunks:convolution", "embedding_size": 6, "pooling": "avg", "cache": True}


@pytest.fixture(scope="module")
def cached(settings):
    """Makes settings with a cache, some of the encoder and of the training section changed."""

    def make(encoder=None, **training):
        values = settings(**{"augmentation": {}, "optimizer": OPTIMIZER, "methods": WHITENED, **training})
        return {**values, "encoder": {**ENCODER, **(encoder or {})}}

    return make


def of_run(values):
    return RunSettings.from_dict({key: value for key, value in values.items() if key != "verbose"})


def test_features_are_those_of_the_trunk(store, cached):
    settings = of_run(cached())
    with cached_features(store, None, settings, verbose=0) as features:
        wanted = predict_rows(create_trunk(settings.encoder, store.spec), store, np.arange(len(store)))
        np.testing.assert_allclose(features.store.read(np.arange(len(store))), wanted, rtol=1e-5, atol=1e-6)
        assert features.store.ids.tolist() == store.ids.tolist()
        assert features.store.labels.tolist() == store.labels.tolist()
        assert features.validation_store is None
    assert wanted.shape == (48, 9)


def test_a_training_on_them_is_one_with_a_frozen_trunk(store, validation_store, cached):
    frozen = cached({"cache": False}, optimizer={**OPTIMIZER, "rate_factors": {"trunk": 0.0}})
    wanted = run_training(store, validation_store, **frozen)
    found = run_training(store, validation_store, **cached())
    for row, other in zip(found.result.history, wanted.result.history, strict=True):
        assert row.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-3)
        assert row["val_map@r"] == pytest.approx(other["val_map@r"], abs=1e-3)
    embeddings = embed_store(found.learner, validation_store)
    np.testing.assert_allclose(embeddings, embed_store(wanted.learner, validation_store), atol=1e-3)
    assert [layer.name for layer in found.learner.encoder.layers if layer.name == "trunk"]
    for weight, other in zip(found.result.start_weights, wanted.result.start_weights, strict=True):
        np.testing.assert_allclose(weight, other, atol=1e-4)


def test_the_second_training_embeds_nothing(store, validation_store, cached, tmp_path, monkeypatch):
    first = run_training(store, validation_store, **cached(), cache_folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(cache, "write_features", None)
    second = run_training(store, validation_store, **cached(), cache_folder=tmp_path)
    assert second.result.history == first.result.history


@pytest.mark.parametrize("change", ["weights", "data", "copies"])
def test_other_weights_data_or_copies_are_embedded_anew(store, validation_store, cached, tmp_path, change):
    def keys(images, values):
        with cached_features(images, None, of_run(values), tmp_path, verbose=0):
            return {path.name for path in tmp_path.iterdir()}

    before = keys(store, cached())
    copies = {"encoder": {"cached_copies": 1}, "augmentation": {"shift": 0.2}}
    other = {"weights": {"encoder": {"params": {"channels": 8}}}, "data": {}, "copies": copies}[change]
    after = keys(validation_store if change == "data" else store, cached(**other))
    assert len(after - before) == 1


def test_damaged_features_are_made_again(store, cached, tmp_path):
    settings = of_run(cached())
    with cached_features(store, None, settings, tmp_path, verbose=0) as features:
        wanted = features.store.read(np.arange(48))
    [shard] = tmp_path.glob("*/original/*.f32")
    shard.write_bytes(shard.read_bytes()[:-4] + b"wxyz")
    with cached_features(store, None, settings, tmp_path, verbose=0) as features:
        np.testing.assert_array_equal(features.store.read(np.arange(48)), wanted)


def test_copies_differ_and_take_turns(store, cached):
    values = cached({"cached_copies": 2}, augmentation={"shift": 0.3})
    with cached_features(store, None, of_run(values), verbose=0) as features:
        rows = np.arange(48)
        versions = [features.store.read_copies(rows, np.full(48, number)) for number in range(3)]
        np.testing.assert_array_equal(versions[0], features.store.read(rows))
        for number, other in ((0, 1), (0, 2), (1, 2)):
            assert (np.abs(versions[number] - versions[other]).max(axis=1) > 1e-4).mean() > 0.9
        part = ClassSubset(features.store, features.store.class_names[4:])
        drawn = read_for_training(part, np.tile(np.arange(24), 50), 0, range(100))
        counts = [np.isclose(drawn, np.tile(version[24:], (50, 1))).all(axis=1).mean() for version in versions]
        np.testing.assert_allclose(counts, 1 / 3, atol=0.05)  # 1,200 draws: a standard error of 0.014


def test_copies_are_the_same_after_a_restart(store, cached):
    found = []
    for _ in range(2):
        with cached_features(
            store, None, of_run(cached({"cached_copies": 1}, augmentation={"rotation": 20.0})), verbose=0
        ) as features:
            found.append(features.store.read_copies(np.arange(48), np.ones(48)))
    np.testing.assert_array_equal(*found)


@pytest.mark.thorough
def test_procedures_and_heads_of_several_outputs(store, validation_store, cached):
    folds = {"procedure": {"name": "class_folds", "params": {"folds": 2}}, "epochs": 1}
    learner, _ = run_training(store, validation_store, **cached(**folds))
    assert embed_store(learner, store).shape == (48, 12)
    head = {"head": {"name": "ensemble", "params": {"members": 2, "head_size": 4}}}
    members = [{"name": "contrastive"}, {"name": "triplet"}]
    ensemble = {**cached(head, methods=[], epochs=1), "loss": {"name": "ensemble", "params": {"members": members}}}
    learner, _ = run_training(store, validation_store, **ensemble)
    assert embed_store(learner, store).shape == (48, 6)


def test_the_learner_can_be_saved(store, cached, tmp_path):
    learner, _ = run_training(store, None, **cached(epochs=1))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_allclose(embed_store(loaded, store), embed_store(learner, store), atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "training", "expected"),
    [
        ({"name": "small"}, {}, "random features"),
        ({"name": "head"}, {}, "vectors, which are features already"),
        ({}, {"epochs": 0}, "`training.epochs` = 0"),
        ({}, {"optimizer": {**OPTIMIZER, "rate_factors": {"trunk": 0.3}}}, "`rate_factors` that train the trunk"),
        ({}, {"optimizer": {**OPTIMIZER, "frozen_steps": {"trunk": 9}}}, "`frozen_steps` after which the trunk trains"),
        ({"name": "hub:vit", "weights": "x", "params": {"lora_rank": 4}}, {}, "`lora_rank`"),
        ({"head": {"name": "identity"}}, {}, "nothing to train"),
        ({"head": {"name": "global_local"}}, {}, "feature maps"),
        ({}, {"strategy": "mirrored"}, "one device"),
        ({}, {"augmentation": {"shift": 0.1}}, "without copies"),
        ({"cached_copies": 2}, {}, "without an augmentation"),
        ({"cache": False, "cached_copies": 2}, {}, "needs `cache` = true"),
    ],
)
def test_what_does_not_go_with_a_cache_is_refused(cached, encoder, training, expected):
    with pytest.raises(UsageError, match=f"E_CACHE: .*{expected}"):
        check_cache(of_run(cached(encoder, **training)))


def test_a_kill_while_features_are_written_leaves_nothing_to_open(tmp_path):
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from anchorage.data.features import write_features\n"
        "from anchorage.data.store import Record, RecordSpec\n"
        "def records(copy):\n"
        "    for number in range(100):\n"
        "        yield Record(f'{number:03d}', 'a', 'both', np.ones(4, 'float32'))\n"
        "        if copy == 1 and number == 50:\n"
        "            print('half', flush=True)\n"
        "            time.sleep(60)\n"
        "write_features(Path(sys.argv[1]) / 'key', RecordSpec(dimension=4), 2, 100, records)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "key").exists()
    records = [Record(f"{number:03d}", "a", "both", np.full(4, number, "float32")) for number in range(100)]
    write_features(tmp_path / "key", RecordSpec(dimension=4), 1, 100, lambda copy: iter(records))
    assert len(FeatureStore(tmp_path / "key")) == 100
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
