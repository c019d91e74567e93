"""VectorExampleGen, and how its examples are audited, packed and embedded."""

import apache_beam as beam
import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from tfx.types.standard_artifacts import Examples, Model

from anchorage.data.examples import list_shards, read_counts, read_examples, read_rejects
from anchorage.data.store import RecordSpec, RecordStore, content_digest
from anchorage.errors import DataError
from anchorage.retrieval.table import read_table
from anchorage.serving.export import export_encoder
from anchorage_components.artifacts import DataAudit, EmbeddingTable
from anchorage_components.audit_examples import AuditExamples
from anchorage_components.embed_examples import EmbedExamples
from anchorage_components.pack_examples import PackExamples
from anchorage_components.vector_example_gen import VectorExampleGen

CLASSES, EACH, DIM = 8, 5, 4
VECTORS = np.random.default_rng(0).normal(size=(CLASSES * EACH, DIM)).astype("float32")
LABELS = [f"class {number // EACH}" for number in range(CLASSES * EACH)]


def write(folder, vectors=VECTORS, **columns):
    path = folder / "vectors.parquet"
    table = {"id": [f"v{number}" for number in range(len(vectors))], "label": LABELS[: len(vectors)], **columns}
    parquet.write_table(pa.table({**table, "vector": [list(map(float, row)) for row in vectors]}), path)
    return path


def ingest(path, folder, **settings):
    examples = Examples()
    examples.uri = str(folder / "examples")
    VectorExampleGen.test_call(examples=examples, table=str(path), **settings)
    return examples


def rows(examples, split):
    return [row for shard in list_shards(examples.uri, split) for row in read_examples(examples.uri, shard)]


def test_every_vector_is_in_the_split_of_its_class(tmp_path):
    examples = ingest(write(tmp_path), tmp_path, seed=3)
    by_split = {split: rows(examples, split) for split in ("train", "val", "test")}
    classes = {split: {row.label for row in found} for split, found in by_split.items()}
    assert [len(classes[split]) for split in ("train", "val", "test")] == [3, 1, 4]
    everything = {row.id: row.content for found in by_split.values() for row in found}
    np.testing.assert_array_equal([everything[f"v{number}"] for number in range(len(VECTORS))], VECTORS)
    counts = read_counts(examples.uri)
    assert (counts["dimension"], counts["splits"]["train"]["classes"]) == (DIM, 3)


def test_large_splits_have_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("anchorage_components.vector_example_gen._SHARD_VECTORS", 6)
    examples = ingest(write(tmp_path), tmp_path)
    assert [shard.records for shard in list_shards(examples.uri, "test")] == [6, 6, 6, 2]
    assert len({row.id for row in rows(examples, "test")}) == 20


def test_bad_rows_are_named_and_too_many_stop_the_run(tmp_path):
    vectors = VECTORS.copy()
    vectors[3, 1], vectors[4] = np.nan, 0.0
    path = write(tmp_path, vectors)
    examples = ingest(path, tmp_path)
    assert {(reject.path, reject.code) for reject in read_rejects(examples.uri)} == {
        ("row 4", "E_VECTOR_UNUSABLE"),
        ("row 5", "E_VECTOR_UNUSABLE"),
    }
    with pytest.raises(DataError, match=r"Expected at most 1 bad records of 40\. Received: 2 E_VECTOR_UNUSABLE"):
        ingest(path, tmp_path, max_rejects=1)
    assert not set(read_counts(examples.uri)["splits"]) - {"train", "val", "test"}


def test_copies_in_several_splits_are_a_leak(tmp_path):
    vectors = VECTORS.copy()
    vectors[-1] = vectors[0]
    splits = ["train"] * 15 + ["val"] * 5 + ["test"] * 20
    examples, audit = ingest(write(tmp_path, vectors, split=splits), tmp_path), DataAudit()
    audit.uri = str(tmp_path / "audit")
    with pytest.raises(DataError, match=r"E_SPLIT_LEAK.*v0 \(train, class 0\) = v39 \(test, class 7\)"):
        AuditExamples.test_call(examples=examples, audit=audit, beam_pipeline=beam.Pipeline())


def test_paths_of_pictures_stay_with_the_embedded_vectors(tmp_path):
    paths = [f"shop/{number}.png" for number in range(len(VECTORS))]
    examples = ingest(write(tmp_path, path=paths), tmp_path)
    encoder = keras.Sequential([keras.Input((DIM,)), keras.layers.UnitNormalization()])
    export_encoder(encoder, tmp_path / "model/Format-Serving", RecordSpec(dimension=DIM))
    model, table = Model(), EmbeddingTable()
    model.uri, table.uri = str(tmp_path / "model"), str(tmp_path / "embeddings")
    EmbedExamples.test_call(examples=examples, embeddings=table, model=model, beam_pipeline=beam.Pipeline())
    found = read_table(table.uri)
    assert len(found) == 20
    assert found.columns["path"].tolist() == [f"shop/{id_[1:]}.png" for id_ in found.ids]
    expected = VECTORS[[int(id_[1:]) for id_ in found.ids]]
    np.testing.assert_allclose(found.vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


def test_packed_rows_are_the_vectors(tmp_path):
    examples, store = ingest(write(tmp_path), tmp_path), Examples()
    store.uri = str(tmp_path / "store")
    PackExamples.test_call(examples=examples, store=store, beam_pipeline=beam.Pipeline())
    packed = RecordStore(f"{store.uri}/Split-test")
    assert packed.spec == RecordSpec(dimension=DIM)
    expected = VECTORS[[int(id_[1:]) for id_ in packed.ids]]
    np.testing.assert_array_equal(packed.read(range(len(packed))), expected)
    assert content_digest(packed.read([0])[0]) == content_digest(expected[0])
