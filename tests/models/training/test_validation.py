"""Validation by retrieval, with an encoder whose results can be computed by hand."""

import keras
import numpy as np
import pytest

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.errors import DataError
from anchorage.inference import embed_store
from anchorage.training.validation import validate


class Colour(keras.Model):
    """Embeds a picture as the direction of its mean colour; or as a dict that holds it."""

    def __init__(self, as_dict=False):
        super().__init__()
        self.as_dict = as_dict

    def call(self, images):
        mean = keras.ops.mean(keras.ops.cast(images, "float32"), axis=(1, 2))
        embeddings = keras.ops.normalize(mean, axis=-1)
        return {"embeddings": embeddings, "features": mean} if self.as_dict else embeddings


def colour_store(folder, colours):
    def records():
        for number, (label, colour) in enumerate(colours):
            yield Record(f"{number}", label, "both", np.full((8, 8, 3), colour, "uint8"))

    write_store(folder, records(), RecordSpec(8))
    return RecordStore(folder)


# Angle of each picture's colour in the red-green plane, in degrees: a 0 and 20, b 12 and 90.
COLOURS = [("a", (200, 0, 0)), ("a", (188, 68, 0)), ("b", (196, 42, 0)), ("b", (0, 200, 0))]


@pytest.mark.parametrize("as_dict", [False, True])
def test_metrics_by_hand(tmp_path, as_dict):
    """Nearest of a1 (0) is b1 (12), of a2 (20) b1, of b1 a2, of b2 (90) a2: no query is right."""
    store = colour_store(tmp_path, COLOURS)
    assert validate(Colour(as_dict), store) == {"recall@1": 0.0, "map@r": 0.0}
    vectors = embed_store(Colour(as_dict), store, batch_size=3)
    assert vectors.shape == (4, 3)
    np.testing.assert_allclose(vectors[3], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(vectors[0] @ vectors[1], np.cos(np.arctan2(68, 188)), rtol=1e-5)


class Raw(Colour):
    """The mean colour itself: light pictures have longer embeddings."""

    def call(self, images):
        return keras.ops.mean(keras.ops.cast(images, "float32"), axis=(1, 2))


def test_lengths_do_not_count(tmp_path):
    """By inner products the lightest picture (class b) would be nearest to all others."""
    store = colour_store(tmp_path, [("a", (40, 0, 0)), ("a", (39, 4, 0)), ("b", (250, 220, 0)), ("b", (28, 27, 0))])
    assert validate(Raw(), store, metrics=["recall@1"]) == {"recall@1": 1.0}


def test_right_answers_count(tmp_path):
    store = colour_store(tmp_path, [*COLOURS, ("b", (0, 190, 9)), ("a", (200, 2, 0))])
    # right: a1 finds a3, a3 finds a1, b2 and b3 each other; a2 and b1 find each other
    assert validate(Colour(), store, metrics=["recall@1"])["recall@1"] == pytest.approx(4 / 6)


def test_nothing_to_compare_is_an_error(tmp_path):
    with pytest.raises(DataError, match="E_SPLIT_EMPTY"):
        validate(Colour(), colour_store(tmp_path / "empty", []))
    with pytest.raises(DataError, match="E_NO_RELEVANT"):
        validate(Colour(), colour_store(tmp_path / "single", [("a", (1, 2, 3)), ("b", (3, 2, 1))]))
