"""The index finds what exact search finds, says how much of it, and keeps bad input away from native code."""

import json
import shutil

import numpy as np
import pytest
from spaces import clustered_rows

from anchorage.errors import DataError, UsageError
from anchorage.retrieval.index import load_index, load_vectors, save_index, search
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits


@pytest.fixture(scope="module")
def tree():
    """A tree over just as many rows as get one."""
    vectors = clustered_rows(20_000)
    return vectors, build_index(vectors, limits=IndexLimits(0.95))


def test_short_answers_are_filled_up(tree):
    _, index = tree
    narrow = index.with_facts(leaves_to_search=1, reorder=60)
    rows, similarities = search(narrow, clustered_rows(5, seed=4), 3000)
    assert np.isfinite(similarities).all()
    assert all(len(set(answer)) == 3000 for answer in rows.tolist())
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_k_is_cut_to_the_rows():
    index = build_index(clustered_rows(5), neighbors=10)
    rows, _ = search(index, clustered_rows(2), 10)
    assert [sorted(answer) for answer in rows.tolist()] == [[0, 1, 2, 3, 4]] * 2


def test_single_row_and_empty_batch():
    index = build_index(clustered_rows(1))
    assert index.facts["recall"] == 1.0
    assert search(index, clustered_rows(3), 4)[0].tolist() == [[0]] * 3
    assert search(index, np.empty((0, 16), "float32"), 4)[0].shape == (0, 1)


@pytest.mark.parametrize("moved", [False, True])
def test_opens_where_it_was_written_and_where_it_was_moved(tmp_path, tree, moved):
    vectors, index = tree
    folder = tmp_path / "an index"
    save_index(index, folder, model_fingerprint="abc")
    if moved:
        folder = shutil.move(folder, tmp_path / "elsewhere")
    again = load_index(folder, dimension=16)
    assert again.facts == {**index.facts, "format": 1, "model_fingerprint": "abc"}
    np.testing.assert_array_equal(search(again, vectors[:20], 10)[0], search(index, vectors[:20], 10)[0])


def test_saved_files_hold_no_ids_and_no_pickle(tmp_path):
    save_index(build_index(clustered_rows(30), ids=[f"secret-{i}" for i in range(30)]), tmp_path)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not [p.name for p in files if "docid" in p.name or p.suffix == ".pkl"]
    assert not any(b"secret" in p.read_bytes() for p in files)


def test_saving_over_another_index_is_refused(tmp_path):
    index = build_index(clustered_rows(30))
    save_index(index, tmp_path)
    with pytest.raises(UsageError, match="E_FOLDER_NOT_EMPTY"):
        save_index(index, tmp_path)


@pytest.mark.parametrize("queries", [np.ones((2, 15), "float32"), np.ones(16, "float32"), np.ones((2, 16), "int64")])
def test_f19_wrong_queries_are_refused_and_the_index_goes_on(queries):
    index = build_index(clustered_rows(30))
    with pytest.raises(DataError, match=r"E_QUERY_SHAPE: Expected queries of shape \(N, 16\)") as caught:
        search(index, queries, 3)
    assert str(queries.shape) in str(caught.value)
    assert str(queries.dtype) in str(caught.value)
    assert search(index, clustered_rows(2), 3)[0].shape == (2, 3)


def test_queries_with_nan_are_refused():
    index = build_index(clustered_rows(30))
    with pytest.raises(DataError, match="E_VECTOR_NOT_FINITE"):
        search(index, np.full((1, 16), np.nan, "float32"), 3)


def test_f23_pickle_in_the_folder_is_refused_before_it_is_opened(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    import pickle

    save_index(build_index(clustered_rows(30)), tmp_path / "index")
    (tmp_path / "index/scann/scann_docids.pkl").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match=r"E_INDEX_PICKLE: .* scann/scann_docids\.pkl"):
        load_index(tmp_path / "index")
    assert not (tmp_path / "ran").exists()


def test_index_of_another_dimension_is_refused(tmp_path):
    save_index(build_index(clustered_rows(30)), tmp_path)
    with pytest.raises(DataError, match=r"E_QUERY_SHAPE: Expected queries of 16 dimensions .* Received: 32"):
        load_index(tmp_path, dimension=32)


def test_an_index_of_an_earlier_version_has_one_shard(tmp_path):
    save_index(build_index(clustered_rows(30)), tmp_path)
    facts = json.loads((tmp_path / "index.json").read_text())
    assert facts["format"] == 1
    del facts["shards"], facts["shard_rows"]
    (tmp_path / "index.json").write_text(json.dumps(facts))
    assert load_index(tmp_path).shards == [30]


def test_rejects_missing_and_damaged_folders(tmp_path):
    with pytest.raises(DataError, match="E_INDEX_MISSING"):
        load_index(tmp_path)
    save_index(build_index(clustered_rows(30)), tmp_path)
    facts = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**facts, "rows": 31, "shards": [31]}))
    with pytest.raises(DataError, match=r"E_INDEX_DAMAGED: .* 30 rows in scann/, 31 in index\.json"):
        load_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({**facts, "dimension": "16"}))
    with pytest.raises(DataError, match=r"E_INDEX_DAMAGED: .* dimension = '16'"):
        load_index(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(facts))
    stored = tmp_path / "scann/dataset.npy"
    stored.write_bytes(stored.read_bytes()[:-100])
    with pytest.raises(DataError, match="E_INDEX_DAMAGED"):
        load_index(tmp_path)


def test_assets_outside_the_folder_are_refused(tmp_path):
    save_index(build_index(clustered_rows(30)), tmp_path)
    assets = tmp_path / "scann/scann_assets.pbtxt"
    assets.write_text(assets.read_text().replace('"dataset.npy"', '"../index.json"'))
    with pytest.raises(DataError, match=r"E_INDEX_DAMAGED: .*\.\./index\.json"):
        load_index(tmp_path)


@pytest.mark.parametrize(("rows", "bytes_per_row"), [(300, 20), (20_000, 36)])
def test_vectors_are_exact_whatever_the_index_stores(tmp_path, rows, bytes_per_row):
    vectors = clustered_rows(rows)
    index = build_index(vectors, limits=IndexLimits(0.5, max_memory_mib=rows * bytes_per_row / 2**20))
    assert index.facts["stored"] == "int8"
    save_index(index, tmp_path, vectors)
    np.testing.assert_array_equal(load_vectors(tmp_path), vectors)
    found, _ = search(load_index(tmp_path), vectors[:50], 5)
    np.testing.assert_array_equal(found, search(index, vectors[:50], 5)[0])
