"""Exact neighbours against a full float64 sort, with ties, self-matches and every block shape."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.errors import DataError, UsageError
from anchorage.retrieval.neighbors import Exclusions, Space, check_vectors, nearest_neighbors, rank_block


def reference(queries, gallery, k, own_rows=None):
    """One full sort per query, by float32 similarity and then by row."""
    rows, similarities = [], []
    for i, query in enumerate(queries.astype("float64")):
        products = (gallery.astype("float64") * query).sum(axis=1).astype("float32")
        order = [j for j in np.lexsort((np.arange(len(gallery)), -products)) if own_rows is None or j != own_rows[i]]
        rows.append(order[:k])
        similarities.append(products[order[:k]])
    return np.array(rows), np.array(similarities)


def unit_rows(rng, rows, dim):
    vectors = rng.normal(size=(rows, dim)).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rank(queries, gallery, depths, own_rows=None, block_rows=None):
    space = Space(queries, gallery, None if own_rows is None else Exclusions(own_rows))
    return [ranking for block in space.blocks(depths, block_rows) for ranking in rank_block(space, block)]


def test_hand_worked_with_tie_and_self_match():
    gallery = np.array([[0.6, 0.8], [1, 0], [0.8, 0.6], [1, 0], [0, 1]], "float32")
    rows, similarities = nearest_neighbors(gallery[[1, 4]], gallery, 3, own_rows=[1, -1])
    np.testing.assert_array_equal(rows, [[3, 2, 0], [4, 0, 2]])
    np.testing.assert_allclose(similarities, [[1, 0.8, 0.6], [1, 0.8, 0.6]], rtol=1e-6)


@given(
    st.integers(1, 30), st.integers(1, 400), st.integers(1, 9), st.integers(1, 12), st.booleans(), st.integers(0, 2**16)
)
def test_equals_a_full_sort(queries, rows, dim, k, coarse, seed):
    rng = np.random.default_rng(seed)
    gallery, asked = unit_rows(rng, rows, dim), unit_rows(rng, queries, dim)
    if coarse:  # few distinct rows: every query has ties, most of them across the k-th place
        gallery, asked = np.sign(gallery) * 0.3, np.sign(asked) * 0.3
    k = min(k, rows)
    found, similarities = nearest_neighbors(asked, gallery, k, block_rows=7)
    expected, expected_similarities = reference(asked, gallery.astype("float32"), k)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(similarities, expected_similarities, atol=1e-6)


@pytest.mark.parametrize("k", [1, 10, 60, 1500, 2999])
def test_every_group_size_of_the_choice(k):
    vectors = unit_rows(np.random.default_rng(3), 3000, 16)
    vectors[1000:1010] = vectors[2000:2010]
    own = np.arange(40)
    found, similarities = nearest_neighbors(vectors[:40], vectors, k, own_rows=own)
    expected, expected_similarities = reference(vectors[:40], vectors, k, own)
    np.testing.assert_allclose(similarities, expected_similarities, atol=1e-6)
    if k <= 60:  # deeper lists hold pairs closer than float32 tells apart by the matrix product
        np.testing.assert_array_equal(found, expected)


def test_blocks_and_order_of_queries_change_nothing():
    vectors = unit_rows(np.random.default_rng(4), 500, 24)
    vectors[::5] = vectors[0]
    whole = nearest_neighbors(vectors, vectors, 20, own_rows=np.arange(500))
    for block_rows in (1, 7, 333):
        rows, similarities = nearest_neighbors(vectors, vectors, 20, own_rows=np.arange(500), block_rows=block_rows)
        np.testing.assert_array_equal(rows, whole[0])
        np.testing.assert_allclose(similarities, whole[1], atol=1e-6)


def test_equal_rows_are_exactly_equal_and_the_tie_is_whole():
    vectors = unit_rows(np.random.default_rng(5), 2000, 100)
    copies = [3, 64, 700, 1111, 1999]
    vectors[copies] = vectors[3]
    (ranking,) = rank(vectors[[3]], vectors, np.array([2]))
    np.testing.assert_array_equal(ranking.rows, copies)
    assert len(set(ranking.similarities.tolist())) == 1
    assert ranking.depth == 2


def test_a_space_that_collapsed_to_a_point_is_ranked_in_parts(monkeypatch):
    monkeypatch.setattr("anchorage.retrieval.neighbors._FLAT_ITEMS", 1000)
    vectors = np.full((300, 4), 0.5, "float32")
    rankings = rank(vectors[:9], vectors, np.full(9, 3))
    assert len(rankings) == 3
    np.testing.assert_array_equal(np.concatenate([r.queries for r in rankings]), np.arange(9))
    assert all(np.array_equal(np.diff(r.starts), np.full(3, 300)) for r in rankings)


def test_memory_does_not_grow_with_queries_times_gallery():
    vectors = unit_rows(np.random.default_rng(7), 6000, 16)
    tracemalloc.start()
    nearest_neighbors(vectors, vectors, 10, own_rows=np.arange(6000), block_rows=128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20  # all similarities at once would be 137 MiB


def test_each_query_ranked_as_deep_as_it_asks():
    vectors = unit_rows(np.random.default_rng(6), 50, 8)
    depths = np.array([40, 2, 3, 49, 1])
    rankings = rank(vectors[:5], vectors, depths, own_rows=np.arange(5), block_rows=2)
    assert [r.queries.tolist() for r in rankings] == [[4, 1], [2, 0], [3]]
    assert [r.depth for r in rankings] == [2, 40, 49]


@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 2**16))
def test_nothing_of_the_own_group_is_met(rows, groups, seed):
    rng = np.random.default_rng(seed)
    vectors, codes = unit_rows(rng, rows, 3), rng.integers(-1, groups, rows)
    exclusions = Exclusions(np.arange(rows), codes, codes)
    hidden = (codes[:, None] == codes) & (codes >= 0)[:, None] | np.eye(rows, dtype=bool)
    np.testing.assert_array_equal(exclusions.counts(), hidden.sum(axis=1))
    asking = np.flatnonzero(exclusions.counts() < rows)
    space = Space(vectors[asking], vectors, exclusions.select(asking))
    assert not len(asking) or space.available.min() > 0
    for block in space.blocks(space.available, block_rows=4):
        for ranking in rank_block(space, block):
            for place, query in enumerate(ranking.queries):
                found = ranking.rows[ranking.starts[place] : ranking.starts[place + 1]]
                assert sorted(found.tolist()) == np.flatnonzero(~hidden[asking[query]]).tolist()[: len(found)] or (
                    len(found) >= ranking.depth and not hidden[asking[query]][found].any()
                )


def test_processors_share_a_product(monkeypatch):
    monkeypatch.setattr("anchorage.retrieval.neighbors._SMALL", 1)
    vectors = unit_rows(np.random.default_rng(8), 300, 20)
    rows, similarities = nearest_neighbors(vectors[:7], vectors, 4)
    expected, expected_similarities = reference(vectors[:7], vectors, 4)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarities, expected_similarities, atol=1e-6)


@pytest.mark.parametrize(("k", "own"), [(6, None), (5, [0]), (0, None)])
def test_more_neighbours_than_there_are(k, own):
    with pytest.raises(UsageError, match=rf"E_TOO_FEW_NEIGHBORS: .* from 1 to {4 if own else 5}.* Received: {k}"):
        nearest_neighbors(np.ones((1, 2)), np.ones((5, 2)), k, own_rows=own)


def test_dimensions_must_agree():
    with pytest.raises(DataError, match=r"E_VECTOR_SHAPE: .* Received: 2 and 3 dimensions"):
        nearest_neighbors(np.ones((1, 2)), np.ones((5, 3)), 1)


def test_no_queries_give_no_rows():
    rows, similarities = nearest_neighbors(np.empty((0, 2)), np.ones((5, 2)), 3)
    assert rows.shape == similarities.shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused_by_name(value):
    vectors = np.ones((9, 3), "float32")
    vectors[[2, 5], 1] = value
    with pytest.raises(DataError, match=r"E_VECTOR_NOT_FINITE: .* in 2 of 9 rows: c, f\."):
        check_vectors(vectors, list("abcdefghi"))


def test_rows_without_direction_are_refused_by_name():
    vectors = np.zeros((9, 3), "float32")
    vectors[0] = 1e-30  # short, but a direction
    with pytest.raises(DataError, match=r"E_VECTOR_ZERO: .* in 8 of 9 rows: 1, 2, 3, 4, 5, \.\.\.\."):
        check_vectors(vectors)
    check_vectors(vectors, allow_zero=True)
