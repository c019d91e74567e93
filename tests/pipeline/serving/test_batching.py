"""A record that the model refuses costs no other record of its batch, whoever sent that."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from services import run_async, running

from anchorage.data.store import RecordSpec
from anchorage.errors import DataError
from anchorage.release import fingerprint_model, publish_release
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.table import Embeddings, write_ids
from anchorage.serving.export import export_encoder
from anchorage_pipeline.serving.batching import Batcher

SIZE = 6


def test_the_others_of_a_batch_are_answered():
    sizes = []

    def run(records):
        sizes.append(len(records))
        if "bad" in records:
            raise DataError("E_RECORD_REFUSED", "bad")
        return [record.upper() for record in records]

    async def scenario():
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(run, 3, pool)
            found = await asyncio.gather(*map(batcher.submit, ["a", "bad", "b", "c"]), return_exceptions=True)
            return [each.code if isinstance(each, DataError) else each for each in found]

    assert run_async(scenario()) == ["A", "E_RECORD_REFUSED", "B", "C"]
    assert sizes == [3, 1, 1, 1, 1]


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """A release of vectors, with the signatures of the exporter."""
    folder = tmp_path_factory.mktemp("vectors")
    kernel = keras.initializers.RandomNormal(stddev=9.0, seed=0)
    layers = [keras.Input((SIZE,)), keras.layers.Dense(4, kernel_initializer=kernel), keras.layers.UnitNormalization()]
    export_encoder(keras.Sequential(layers), folder / "model", RecordSpec(dimension=SIZE))
    records = np.random.default_rng(0).normal(size=(8, SIZE)).astype(np.float32)
    model = tf.saved_model.load(str(folder / "model"))
    vectors = model.signatures["serving_default"](vectors=tf.constant(records))["embeddings"].numpy()
    fingerprint = fingerprint_model(folder / "model")
    save_index(build_index(vectors, neighbors=2), folder / "index", model_fingerprint=fingerprint)
    texts = [np.array([f"{name} {number}" for number in range(8)], object) for name in ("item", "class")]
    both = np.array(["both"] * 8, object)
    write_ids(folder / "ids", Embeddings(*texts, both, both, vectors))
    files = {"gallery.parquet": folder / "ids"}
    publish_release(
        folder / "releases", model_folder=folder / "model", index_folder=folder / "index", files=files, facts={}
    )
    return folder / "releases"


def test_vectors_that_the_model_takes_as_zeros_or_overflows_at(releases, tmp_path):
    """The model flushes subnormal numbers to zero; near the largest number its sums are infinite."""
    good = np.arange(1, SIZE + 1)
    rows = [good, np.full(SIZE, 1e-42), np.full(SIZE, 3e38), np.full(SIZE, 1e-37), good]
    body = json.dumps({"instances": [row.tolist() for row in rows]})
    with running(releases, store=f"sqlite:///{tmp_path}/items") as client:
        answer = client.post("/v1/models/anchorage:predict", content=body)
        assert answer.status_code == 200
        predictions = answer.json()["predictions"]
        assert [row["valid"] for row in predictions] == [True, False, False, True, True]
        assert not np.any([predictions[row]["embeddings"] for row in (1, 2)])
        np.testing.assert_allclose(predictions[0]["embeddings"], predictions[4]["embeddings"], atol=1e-6)
        tiny = client.post("/v1/search", json={"vector": rows[1].tolist()})
        assert (tiny.status_code, tiny.json()["code"]) == (422, "E_VECTOR_UNUSABLE")
        huge = client.post("/v1/search", json={"vector": rows[2].tolist()})
        assert (huge.status_code, huge.json()["code"]) == (422, "E_RECORD_REFUSED")
