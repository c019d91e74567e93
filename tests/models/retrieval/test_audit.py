"""An audit finds what a search misses."""

import numpy as np
import pytest

from anchorage.errors import DataError
from anchorage.items import Item
from anchorage.retrieval.audit import audit, wilson_interval
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.retrieval.live import LiveIndex

BASE = np.eye(12, dtype=np.float32) + 0.1 * np.random.default_rng(0).random((12, 12)).astype(np.float32)
BASE /= np.linalg.norm(BASE, axis=1, keepdims=True)


def live_index(vectors=BASE):
    names = np.array([f"base-{row}" for row in range(len(BASE))], object)
    return LiveIndex(build_index(BASE, limits=IndexLimits(0.9)), {"id": names, "label": names}, vectors)


def test_an_exact_index_misses_nothing():
    found = audit(live_index(), queries=100, neighbors=3)
    assert (found.recall, found.queries, found.neighbors, found.rows, found.mismatches) == (1, 12, 3, 12, [])
    assert found.high == 1


def test_vectors_that_are_not_those_of_the_index():
    """The index holds rows in another order than the vectors: most neighbors are missed, and each miss is named."""
    found = audit(live_index(BASE[::-1].copy()), queries=100, neighbors=2)
    assert found.recall < 0.7
    assert found.low < found.recall < found.high
    first = found.mismatches[0]
    assert first["missed"]
    assert len(first["missed"]) == len(first["served"])


def test_added_and_deleted_items_belong_to_it():
    live = live_index()
    live.apply([Item("new", vector=BASE[0], change=1), Item("base-5", deleted=True, change=2)])
    found = audit(live, queries=5, neighbors=50)
    assert (found.recall, found.queries, found.neighbors, found.rows) == (1, 5, 11, 12)


def test_rejects_an_index_with_too_few_items():
    live = live_index()
    live.apply([Item(f"base-{row}", deleted=True, change=row + 1) for row in range(11)])
    with pytest.raises(DataError, match="E_INDEX_EMPTY"):
        audit(live)


def test_wilson_interval_by_hand():
    """p = 0.9, n = 50: center (0.9 + 0.038416) / 1.076832, half 1.96 sqrt(0.0018 + 0.00038416) / 1.076832."""
    low, high = wilson_interval(0.9, 50)
    assert (low, high) == pytest.approx((0.87146 - 0.08507, 0.87146 + 0.08507), abs=2e-4)
