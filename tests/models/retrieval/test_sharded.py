"""Shards find what one index over the whole gallery finds."""

import json

import numpy as np
import pytest
from vector_releases import unit_vectors

from anchorage.errors import DataError, UsageError
from anchorage.retrieval.index import search
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.retrieval.sharded import LocalShard, ShardedIndex, load_shards, save_shards

VECTORS = unit_vectors(500)
QUERIES = unit_vectors(20, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "index"
    parts = (VECTORS[start:end] for start, end in ((0, 200), (200, 203), (203, 500)))
    save_shards(parts, folder, lambda part: build_index(part, neighbors=2), model_fingerprint="abc")
    return folder


@pytest.mark.parametrize("k", [1, 10, 250, 600])
def test_the_answers_are_those_of_one_index(folder, k):
    whole = build_index(VECTORS, limits=IndexLimits(0.9))
    rows, similarities = load_shards(folder).search(QUERIES, k)
    expected_rows, expected = search(whole, QUERIES, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    assert rows.dtype == np.int64


def test_the_answers_are_those_of_a_full_comparison(folder):
    rows, _ = load_shards(folder, dimension=8).search(QUERIES, 7)
    np.testing.assert_array_equal(rows, np.argsort(-(QUERIES.astype(float) @ VECTORS.T.astype(float)), axis=1)[:, :7])


def test_a_shard_may_be_anywhere(folder):
    class Elsewhere:
        rows, dimension = 3, 8

        def search(self, queries, k):
            scores = queries @ VECTORS[200:203].T
            order = np.argsort(-scores, axis=1)[:, :k]
            return order, np.take_along_axis(scores, order, axis=1)

    local = [LocalShard(build_index(VECTORS[:200])), Elsewhere(), LocalShard(build_index(VECTORS[203:]))]
    rows, _ = ShardedIndex(local).search(QUERIES, 9)
    np.testing.assert_array_equal(rows, load_shards(folder).search(QUERIES, 9)[0])


def test_equal_rows_come_in_the_order_of_the_gallery():
    parts = [LocalShard(build_index(VECTORS[:5])), LocalShard(build_index(VECTORS[:5]))]
    rows, _ = ShardedIndex(parts).search(VECTORS[2:3], 2)
    assert rows.tolist() == [[2, 7]]


def test_no_queries(folder):
    rows, similarities = load_shards(folder).search(np.empty((0, 8), np.float32), 4)
    assert rows.shape == similarities.shape == (0, 4)


def test_what_does_not_fit(folder):
    index = load_shards(folder)
    assert (index.rows, index.dimension) == (500, 8)
    with pytest.raises(DataError, match="E_QUERY_SHAPE"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(UsageError, match="E_NEIGHBORS"):
        index.search(QUERIES, 0)
    with pytest.raises(DataError, match="E_INDEX_EMPTY"):
        ShardedIndex([])
    other = LocalShard(build_index(unit_vectors(9, dimension=4), neighbors=2))
    with pytest.raises(DataError, match="E_RELEASE_MIXED"):
        ShardedIndex([LocalShard(build_index(VECTORS[:9], neighbors=2)), other])
    with pytest.raises(DataError, match="E_QUERY_SHAPE"):
        load_shards(folder, dimension=9)


def test_damaged_folders(folder, tmp_path):
    with pytest.raises(DataError, match="E_INDEX_MISSING"):
        load_shards(tmp_path)
    content = json.loads((folder / "index.json").read_text())
    assert (content["rows"], content["model_fingerprint"]) == (500, "abc")
    for broken in (b"{", b"{}", json.dumps({**content, "shards": [3]}).encode()):
        (tmp_path / "index.json").write_bytes(broken)
        with pytest.raises(DataError, match="E_INDEX_DAMAGED"):
            load_shards(tmp_path)
    content["shards"][1]["rows"] = 4
    (tmp_path / "index.json").write_text(json.dumps(content))
    for number in range(3):
        (tmp_path / f"shard-{number:02}").symlink_to(folder / f"shard-{number:02}")
    with pytest.raises(DataError, match=r"E_INDEX_DAMAGED: Expected shards of \[200, 4, 297\] rows"):
        load_shards(tmp_path)
