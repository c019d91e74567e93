"""A tiny encoder, exported as the real ones are, and pictures for it."""

import io
import shutil
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluation import Workshop, table_of
from PIL import Image

from anchorage.data.store import RecordSpec
from anchorage.serving.export import export_encoder as write

SIDE, DIM = 4, 5


@pytest.fixture(scope="session")
def export_encoder(tmp_path_factory):
    """Exports a tiny encoder and gives its folder: `export_encoder(seed)`; a copy, if one of this seed was exported."""

    @cache
    def export(seed):
        folder = tmp_path_factory.mktemp("encoder")
        encoder = keras.Sequential(
            [
                keras.Input((SIDE, SIDE, 3)),
                keras.layers.Rescaling(1 / 127.5, offset=-1),
                keras.layers.Flatten(),
                keras.layers.Dense(DIM, kernel_initializer=keras.initializers.RandomNormal(seed=seed)),
                keras.layers.UnitNormalization(),
            ]
        )
        write(encoder, folder, RecordSpec(SIDE))
        return folder

    def copy(seed, folder=None):
        return str(shutil.copytree(export(seed), folder or tmp_path_factory.mktemp("copy"), dirs_exist_ok=True))

    return copy


@pytest.fixture(scope="session")
def saved_model(export_encoder):
    """Folder of one tiny encoder."""
    return export_encoder(0)


@pytest.fixture(scope="session")
def embed_exactly(saved_model):
    """Vectors of encoded images, one by one and without Beam."""
    model = tf.saved_model.load(saved_model)
    return lambda images: np.stack(
        [model.signatures["serving_default"](images=tf.constant([data]))["embeddings"][0] for data in images]
    )


@pytest.fixture(scope="session")
def picture():
    """Encoded noise: `picture(seed, "PNG")`."""

    def make(seed, kind="PNG", side=9):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, kind)
        return buffer.getvalue()

    return make


@pytest.fixture
def drawing_workshop(tmp_path, export_encoder):
    """Artifacts of one model below one folder; its reports are whole."""
    return Workshop(tmp_path, export_encoder)


@pytest.fixture
def workshop(drawing_workshop, monkeypatch):
    """The same with reports without figures, which take most of their time."""
    monkeypatch.setattr("anchorage.reporting.report.draw_figures", lambda report, folder: {})
    monkeypatch.setattr("anchorage.reporting.report.draw_sheet", lambda queries, path: None)
    return drawing_workshop


@pytest.fixture
def table():
    """Embeddings of the test split."""
    return table_of("test", 0.2)
