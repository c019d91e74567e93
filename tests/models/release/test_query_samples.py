"""The store of sampled queries, on SQLite and on a real PostgreSQL."""

import numpy as np
import pytest
from databases import fresh_database

from anchorage.release import query_samples
from anchorage.release.items import Item, ItemStore
from anchorage.release.query_samples import QueryStore, SampledQuery


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/items.sqlite"
    return fresh_database(request.getfixturevalue("postgresql_server"), f"queries_{tmp_path.name}")


def query(time, fingerprint="model", **more):
    vector = np.array([time, 1.5], np.float32)
    return SampledQuery(time, 3, fingerprint, vector, more.get("distance", 0.25), more.get("unknown", True))


def test_queries_come_back_in_the_order_of_time_and_without_those_of_other_models(url, monkeypatch):
    ItemStore(url).write([Item("a", "label", vector=np.ones(2, np.float32))])
    store = QueryStore(url)
    store.write([query(2.0), query(1.0, distance=None, unknown=None), query(3.0, "other")])
    first, second = QueryStore(url).read("model")
    assert (first.time, first.distance, first.unknown, first.version) == (1.0, None, None, 3)
    assert (second.time, second.distance, second.unknown) == (2.0, 0.25, True)
    np.testing.assert_array_equal(second.vector, np.array([2.0, 1.5], np.float32))
    assert [each.time for each in store.read("model", newest=1)] == [2.0]
    assert [item.id for item in ItemStore(url).changes(0)] == ["a"]  # the same database

    monkeypatch.setattr(query_samples, "KEPT", 2)  # only the newest are kept
    store.write([query(4.0), query(0.5)])
    assert [each.time for each in store.read("model")] == [4.0]
    assert [each.time for each in store.read("other")] == [3.0]
    store.write([])
    store.close()
