"""BuildIndex: a searchable index of the gallery, or none."""

import hashlib
import json
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from tfx.types.standard_artifacts import Examples

from anchorage.data.store import Record, RecordSpec, write_store
from anchorage.errors import DataError, GateError
from anchorage.retrieval.index import load_index, load_vectors, search
from anchorage.retrieval.table import Embeddings, read_ids, write_table
from anchorage_components.artifacts import EmbeddingTable, RetrievalIndex
from anchorage_components.build_index import BuildIndex


def rows(count, dim=8, role="both", split="test", seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = np.array([f"{split} {role}/{number:03}.png" for number in range(count)], object)
    texts = (np.full(count, text, object) for text in ("label", role, split))
    return Embeddings(names, *texts, vectors)


@pytest.fixture
def artifacts(tmp_path):
    """A table of 60 gallery rows, 7 queries and 9 rows of another split; and an empty output artifact."""
    table, index = EmbeddingTable(), RetrievalIndex()
    table.uri, index.uri = str(tmp_path / "table"), str(tmp_path / "index")
    (tmp_path / "table").mkdir()
    parts = [rows(50), rows(10, role="gallery", seed=1), rows(7, role="query", seed=2), rows(9, split="val", seed=3)]
    for number, part in enumerate(parts):
        write_table(tmp_path / f"table/{number}.parquet", part)
    (tmp_path / "table/table.json").write_text(json.dumps({"model_fingerprint": "f" * 64, "dimension": 8}))
    return table, index


def build(artifacts, **parameters):
    table, index = artifacts
    usual = {"neighbors": 5, "min_recall": 1.0, "beam_pipeline": beam.Pipeline()}
    BuildIndex.test_call(embeddings=table, index=index, **{**usual, **parameters})
    return Path(index.uri)


def test_gallery_is_indexed_with_its_names(artifacts, tmp_path):
    folder = build(artifacts)
    names = read_ids(folder / "ids.parquet")
    assert sorted(set(names["role"])) == ["both", "gallery"]
    assert len(names["id"]) == 60
    index = load_index(folder)
    vectors = np.concatenate([rows(50).vectors, rows(10, role="gallery", seed=1).vectors])
    own = [f"test both/{n:03}.png" for n in range(50)] + [f"test gallery/{n:03}.png" for n in range(10)]
    found, _ = search(index, vectors, 1)
    assert names["id"][found[:, 0]].tolist() == own


def test_facts_travel_with_the_index(artifacts):
    folder = build(artifacts)
    facts = json.loads((folder / "index.json").read_text())
    assert facts["model_fingerprint"] == "f" * 64
    assert (facts["kind"], facts["rows"], facts["dimension"], facts["neighbors"]) == ("brute_force", 60, 8, 5)
    assert (facts["recall"], facts["probes"]) == (1.0, 3)  # half of the 7 queries of the table check the choice
    _, index = artifacts
    assert index.get_float_custom_property("recall") == 1.0
    assert index.get_int_custom_property("rows") == 60
    assert index.get_string_custom_property("kind") == "brute_force"


def test_a_larger_gallery_is_indexed_in_shards(artifacts):
    folder = build(artifacts, shard_rows=25)
    facts, names = json.loads((folder / "index.json").read_text()), read_ids(folder / "ids.parquet")
    assert (facts["shards"], facts["recall"], facts["probes"]) == ([20, 20, 20], 1.0, 3)
    vectors = np.concatenate([rows(50).vectors, rows(10, role="gallery", seed=1).vectors])
    found, _ = search(load_index(folder), vectors, 1)
    assert found[:, 0].tolist() == list(range(60))  # file after file
    assert names["id"].tolist() == [*rows(50).ids, *rows(10, role="gallery").ids]
    np.testing.assert_array_equal(load_vectors(folder), vectors)


def test_only_the_splits_asked_for(artifacts):
    assert json.loads((build(artifacts, splits_json='["val"]') / "index.json").read_text())["rows"] == 9


def test_pixels_of_the_gallery_are_known_by_their_digest(artifacts, tmp_path):
    rng, splits = (
        np.random.default_rng(5),
        {"test": [rows(50), rows(10, role="gallery")], "val": [rows(9, split="val")]},
    )
    store, pixels = Examples(), {}
    store.uri, store.splits = str(tmp_path / "store"), ["test", "val"]
    for split, tables in splits.items():
        for id_ in (id_ for table in tables for id_ in table.ids.tolist()):
            pixels[id_] = rng.integers(0, 256, (4, 4, 3), np.uint8)
        records = [Record(id_, "label", "both", pixels[id_]) for id_ in pixels if id_.startswith(split)]
        write_store(tmp_path / f"store/Split-{split}", records, RecordSpec(4, "pad"))
    folder = build(artifacts, store=store, splits_json='["val", "test"]')
    names, facts = read_ids(folder / "ids.parquet"), json.loads((folder / "index.json").read_text())
    expected = [hashlib.sha256(pixels[id_].tobytes()).hexdigest() for id_ in names["id"].tolist()]
    assert names["pixels"].tolist() == expected
    assert (facts["image_size"], facts["fit"], facts["splits"]) == (4, "pad", {"test": 60, "val": 9})
    assert [id_.split()[0] for id_ in names["id"]] == names["split"].tolist()


def test_image_without_packed_pixels_is_refused(artifacts, tmp_path):
    store = Examples()
    store.uri, store.splits = str(tmp_path / "store"), ["test"]
    write_store(
        tmp_path / "store/Split-test", [Record("x", "label", "both", np.zeros((4, 4, 3), np.uint8))], RecordSpec(4)
    )
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED: Expected a packed image .*none for 60"):
        build(artifacts, store=store)


def test_forgetful_index_is_not_published(artifacts, monkeypatch):
    monkeypatch.setattr("anchorage.retrieval.index_tuning.Probes.search", lambda self, index: (0.4, 0.1))
    with pytest.raises(GateError, match="E_INDEX_RECALL"):
        build(artifacts)
    assert not Path(artifacts[1].uri).exists()


def test_f15_vectors_with_nan_are_named_and_nothing_is_written(artifacts):
    bad = rows(3, seed=4, role="both", split="test")
    bad.vectors[1, 2] = np.nan
    names = np.array(["new/1", "new/2", "new/3"], object)
    write_table(
        Path(artifacts[0].uri) / "bad.parquet", Embeddings(names, bad.labels, bad.roles, bad.splits, bad.vectors)
    )
    with pytest.raises(DataError, match=r"E_VECTOR_NOT_FINITE: .* in 1 of 63 rows: new/2\."):
        build(artifacts)
    assert not Path(artifacts[1].uri).exists()


def test_gallery_of_queries_only(artifacts):
    for path in Path(artifacts[0].uri).glob("[01].parquet"):
        path.unlink()
    with pytest.raises(DataError, match="E_INDEX_EMPTY"):
        build(artifacts)


def test_table_of_no_release(artifacts, tmp_path):
    (tmp_path / "table/none.json").write_text("{}")
    with pytest.raises(DataError, match="E_TABLE_MISSING"):
        build(artifacts)
