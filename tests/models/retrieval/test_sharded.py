"""Shards find what one index over the whole gallery finds."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from vector_releases import unit_vectors

from anchorage.errors import DataError
from anchorage.retrieval import index_building
from anchorage.retrieval.index import load_index, load_vectors, save_index, search
from anchorage.retrieval.index_building import Plan, build_index, build_shards
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.retrieval.sharded import ShardedSearcher

VECTORS = unit_vectors(500)
QUERIES = unit_vectors(20, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved index of 500 rows in shards of 166, 167 and 167."""
    folder = tmp_path_factory.mktemp("shards") / "index"
    save_index(build_index(VECTORS, shard_rows=200), folder, VECTORS, model_fingerprint="abc")
    return folder


@pytest.mark.parametrize("k", [1, 10, 250, 600])
def test_the_answers_are_those_of_one_index(folder, k):
    rows, similarities = search(load_index(folder), QUERIES, k)
    expected_rows, expected = search(build_index(VECTORS), QUERIES, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    assert rows.dtype == np.int64


def test_the_answers_are_those_of_a_full_comparison(folder):
    rows, _ = search(load_index(folder, dimension=8), QUERIES, 7)
    np.testing.assert_array_equal(rows, np.argsort(-(QUERIES.astype(float) @ VECTORS.T.astype(float)), axis=1)[:, :7])


@pytest.mark.parametrize(("shards", "sizes"), [(1, [1]), (3, [333, 333, 334]), (7, [142, 143, 143] * 2 + [143])])
def test_shards_are_of_equal_size(shards, sizes):
    rows = sum(sizes)
    bounds = Plan(0, shards=shards).bounds(rows)
    assert sorted(last - first for first, last in bounds) == sorted(sizes)
    assert (bounds[0][0], bounds[-1][1]) == (0, rows)
    assert all(one[1] == next_[0] for one, next_ in pairwise(bounds))


def test_parameters_are_chosen_on_the_merged_answer(monkeypatch):
    """The recall of two trees is that of the whole gallery, measured here by a full comparison."""
    monkeypatch.setattr(index_building, "BRUTE_FORCE_ROWS", 2_000)
    vectors = unit_vectors(5_000, seed=2)
    index = build_index(vectors, shard_rows=2_500, limits=IndexLimits(0.9))
    assert index.shards == [2_500, 2_500]
    assert (index.facts["kind"], index.facts["leaves"]) == ("tree_ah", 50)  # the root of 2,500 rows, of each shard
    queries = unit_vectors(300, seed=3)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found, _ = search(index, queries, 10)
    shares = [len(set(one) & set(other)) / 10 for one, other in zip(found.tolist(), exact.tolist(), strict=True)]
    assert np.mean(shares) >= 0.88  # 0.9, less what 300 queries may miss by chance
    # All leaves are searched where a single one has fewer rows than asked for.
    few = index.with_facts(leaves_to_search=1)
    rows, similarities = search(few, queries[:3], 400)
    assert np.isfinite(similarities).all()
    assert all(len(set(each)) == 400 for each in rows.tolist())


def test_equal_rows_come_in_the_order_of_the_gallery():
    index = build_index(np.concatenate([VECTORS[:5], VECTORS[:5]]), shard_rows=5)
    assert search(index, VECTORS[2:3], 2)[0].tolist() == [[2, 7]]


def test_a_shard_may_be_anywhere():
    class Elsewhere:
        def size(self):
            return 3

        def search_batched(self, queries, k, *_):
            scores = queries @ VECTORS[200:203].T
            order = np.argsort(-scores, axis=1)[:, :k]
            return order, np.take_along_axis(scores, order, axis=1)

    whole = build_shards(VECTORS, 10, Plan(0))[0]
    parts = [VECTORS[:200], VECTORS[203:]]
    first, last = (build_shards(part, 10, Plan(0))[0] for part in parts)
    rows, _ = ShardedSearcher([first, Elsewhere(), last]).search_batched(QUERIES, 9)
    np.testing.assert_array_equal(rows, whole.search_batched(QUERIES, 9)[0])


def test_each_shard_has_its_folder_and_the_index_its_facts(folder):
    facts = json.loads((folder / "index.json").read_text())
    assert (facts["format"], facts["shards"], facts["rows"]) == (2, [166, 167, 167], 500)
    assert facts["reason"] == "3 shards of 166 rows are fewer than 20,000: brute force, which is exact"
    assert [path.name for path in sorted((folder / "scann").iterdir())] == ["shard-00", "shard-01", "shard-02"]
    np.testing.assert_array_equal(load_vectors(folder), VECTORS)


def test_no_queries_give_no_rows(folder):
    rows, similarities = search(load_index(folder), np.empty((0, 8), np.float32), 4)
    assert rows.shape == similarities.shape == (0, 4)


@pytest.mark.parametrize(
    "facts", [{"shards": [166, 167, 168]}, {"shards": [500]}, {"shards": "3"}, {"format": 1}, {"shards": [500, 0]}]
)
def test_facts_that_do_not_fit(folder, tmp_path, facts):
    content = json.loads((folder / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**content, **facts}))
    with pytest.raises(DataError, match=r"E_INDEX_DAMAGED: .*500 rows in shards of"):
        load_index(tmp_path)


def test_rejects_exchanged_and_damaged_shards(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    swapped = [copy / "scann/shard-00", copy / "scann/shard-01"]
    swapped[0].rename(tmp_path / "first")
    with pytest.raises(DataError, match=r"E_INDEX_DAMAGED: .*scann/shard-00/scann_assets\.pbtxt"):
        load_index(copy)
    swapped[1].rename(swapped[0])
    with pytest.raises(DataError, match=r"E_INDEX_DAMAGED: .*167 rows in scann/shard-00/, 166 in index\.json"):
        load_index(copy)
    (copy / "scann/shard-00/ids.pkl").write_bytes(b"")
    with pytest.raises(DataError, match="E_INDEX_PICKLE"):
        load_index(copy)
