"""EmbedUntrained on a packed store: raw pixels, and what the Trainer left of its first network."""

import numpy as np
import pytest
import tensorflow as tf
from tfx.types.standard_artifacts import Examples, ModelRun

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.errors import DataError
from anchorage.untrained import read_untrained
from anchorage_components.artifacts import UntrainedEmbeddings
from anchorage_components.embed_untrained import EmbedUntrained

SIDE = 4  # of the exported encoder


def artifact(kind, folder):
    found = kind()
    found.uri = str(folder)
    return found


@pytest.fixture
def packed(tmp_path):
    """A packed store of 130 test images, two more than go into one call of a model."""
    images = np.random.default_rng(0).integers(0, 256, (130, SIDE, SIDE, 3), np.uint8)
    roles = ["query", "gallery", "both"]
    records = [Record(f"{n:03}.png", f"class {n % 5}", roles[n % 3], image) for n, image in enumerate(images)]
    write_store(tmp_path / "store/Split-test", records, RecordSpec(SIDE))
    store = artifact(Examples, tmp_path / "store")
    store.splits = ["test"]
    return store, RecordStore(tmp_path / "store/Split-test")


def embed(tmp_path, store):
    found = artifact(UntrainedEmbeddings, tmp_path / "embeddings")
    EmbedUntrained.test_call(store=store, model_run=artifact(ModelRun, tmp_path / "run"), embeddings=found)
    return read_untrained(found.uri, "test")


def test_every_image_by_pixels_and_by_the_models_of_the_run(tmp_path, packed, export_encoder):
    store, records = packed
    for seed, name in enumerate(("network", "features")):
        export_encoder(seed, tmp_path / "run/untrained" / name)
    found = embed(tmp_path, store)
    assert list(found) == ["raw pixels", "untrained network", "pretrained features"]
    for table in found.values():
        assert sorted(table.ids) == sorted(records.ids)
        place = {id_: row for row, id_ in enumerate(records.ids)}
        rows = [place[id_] for id_ in table.ids]
        assert table.labels.tolist() == [records.class_names[records.labels[row]] for row in rows]
        assert table.roles.tolist() == records.roles[rows].tolist()
        np.testing.assert_allclose(np.linalg.norm(table.vectors, axis=1), 1, atol=1e-5)
    assert found["raw pixels"].dimension == 32 * 32
    model = tf.saved_model.load(str(tmp_path / "run/untrained/features"))
    table = found["pretrained features"]
    images = records.read([place[id_] for id_ in table.ids])
    alone = np.concatenate([model.signatures["pixels"](images=tf.constant(i[None]))["embeddings"] for i in images])
    np.testing.assert_allclose(table.vectors, alone, atol=1e-5)


def test_random_trunks_have_no_features(tmp_path, packed, export_encoder):
    export_encoder(0, tmp_path / "run/untrained/network")
    assert list(embed(tmp_path, packed[0])) == ["raw pixels", "untrained network"]


def test_a_run_without_its_first_network_is_refused(tmp_path, packed):
    with pytest.raises(DataError, match=r"E_BASELINE_MISSING: Expected the network before training"):
        embed(tmp_path, packed[0])
