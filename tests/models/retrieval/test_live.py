"""The live index against a dict and a full comparison, while it changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorage.errors import DataError, UsageError
from anchorage.items import Item
from anchorage.retrieval.filters import Filter
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.retrieval.live import LiveIndex

DIMENSION = 8
COLORS = ("red", "blue", "")


def unit(rows, seed, dimension=DIMENSION):
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def texts(values):
    return np.array(list(values), object)


def gallery_of(rows):
    return {
        "id": texts(f"base-{row}" for row in range(rows)),
        "label": texts(f"class-{row % 7}" for row in range(rows)),
        "attribute/color": texts(COLORS[row % 3] for row in range(rows)),
    }


BASE = unit(60, 0)
INDEX = build_index(BASE, limits=IndexLimits(0.9))
QUERIES = unit(4, 1)


@pytest.fixture(scope="module", params=[60, 25], ids=["one index", "shards"], autouse=True)
def _index(request):
    with pytest.MonkeyPatch.context() as patch:
        built = build_index(BASE, limits=IndexLimits(0.9), shard_rows=request.param)
        patch.setattr(request.module, "INDEX", built)
        yield


def live_index():
    return LiveIndex(INDEX, gallery_of(60), BASE)


def as_model():
    """What a live index contains, as a dict of items."""
    gallery = gallery_of(60)
    return {
        id_: Item(id_, label, {"color": color} if color else {}, vector)
        for id_, label, color, vector in zip(*gallery.values(), BASE, strict=True)
    }


def nearest(model, query, k, accept=lambda item: True):
    """Ids of the nearest items, by a full comparison in float64."""
    items = [item for item in model.values() if accept(item)]
    scores = {item.id: float(item.vector.astype(np.float64) @ query.astype(np.float64)) for item in items}
    return sorted(scores, key=lambda id_: -scores[id_])[:k]


def test_unchanged_it_finds_the_nearest_rows():
    found = live_index().search(QUERIES, 5)
    for hits, query in zip(found, QUERIES, strict=True):
        assert hits.ids.tolist() == nearest(as_model(), query, 5)
        np.testing.assert_allclose(hits.scores, [as_model()[id_].vector @ query for id_ in hits.ids], atol=1e-6)
        assert hits.labels.tolist() == [as_model()[id_].label for id_ in hits.ids]
        assert hits.attributes == [as_model()[id_].attributes for id_ in hits.ids]


def test_added_changed_and_deleted_items():
    live = live_index()
    (nearest_id,) = nearest(as_model(), QUERIES[0], 1)
    live.apply([
        Item("new", "fresh", {"color": "green", "size": "big"}, QUERIES[0], 1),
        Item(nearest_id, deleted=True, change=2),
        Item("base-5", "moved", {}, QUERIES[1], 3),
    ])  # fmt: skip
    first, second = live.search(QUERIES[:2], 2)
    assert (first.ids[0], first.labels[0], first.attributes[0]) == ("new", "fresh", {"color": "green", "size": "big"})
    assert first.scores[0] == pytest.approx(1)
    assert nearest_id not in first.ids
    assert (second.ids[0], second.labels[0], second.attributes[0]) == ("base-5", "moved", {})
    assert (live.rows, live.change) == (60, 3)
    assert live.changed_share() == pytest.approx(4 / 60)  # two rows gone, two added
    assert live.item(nearest_id) is None
    assert live.item("base-5").label == "moved"
    np.testing.assert_array_equal(live.vector("new"), QUERIES[0])


def test_changes_are_applied_once():
    live = live_index()
    live.apply([Item("a", vector=QUERIES[0], change=4)])
    live.apply([Item("a", deleted=True, change=3), Item("a", "again", vector=QUERIES[0], change=4)])
    assert (live.item("a").label, live.change) == ("", 4)


@pytest.mark.parametrize(
    ("batch", "code"),
    [
        ([Item("a", vector=np.ones(3, np.float32))], "E_VECTOR_SHAPE"),
        ([Item("a", vector=np.full(DIMENSION, np.nan, np.float32))], "E_VECTOR_NOT_FINITE"),
        ([Item("a", vector=np.zeros(DIMENSION, np.float32))], "E_VECTOR_ZERO"),
        ([Item("a", vector=QUERIES[0]), Item("a", deleted=True)], "E_ID_DUPLICATE"),
    ],
)
def test_a_batch_with_a_fault_changes_nothing(batch, code):
    live = live_index()
    with pytest.raises(DataError, match=f"E_ITEMS_REFUSED.*{code}"):
        live.apply([Item("good", vector=QUERIES[0]), *batch])
    assert live.item("good") is None
    assert live.rows == 60


def test_leave_out_by_query():
    live = live_index()
    live.apply([Item("new", vector=QUERIES[0], change=1)])
    model = as_model()
    first = nearest(model, QUERIES[1], 3)
    found = live.search(QUERIES[:2], 2, leave_out=[["new"], [first[0], "unknown"]])
    assert found[0].ids.tolist() == nearest(model, QUERIES[0], 2)
    assert found[1].ids.tolist() == first[1:]


def test_fewer_items_than_asked_for():
    live = live_index()
    live.apply([Item(f"base-{row}", deleted=True, change=row + 1) for row in range(58)])
    assert sorted(live.search(QUERIES[:1], 10)[0].ids) == ["base-58", "base-59"]
    live.apply([Item("base-58", deleted=True, change=59), Item("base-59", deleted=True, change=60)])
    assert live.search(QUERIES[:1], 10)[0].ids.tolist() == []
    assert live.rows == 0
    with pytest.raises(DataError, match="E_INDEX_EMPTY"):
        live.rebuilt()


def test_a_rebuilt_index_keeps_to_the_memory_of_the_first():
    full = build_index(BASE, limits=IndexLimits(0.9)).facts["trials"][0]["memory_mib"]
    built = build_index(BASE, limits=IndexLimits(0.9, max_memory_mib=0.75 * full))
    live = LiveIndex(built, gallery_of(60), BASE)
    live.apply([Item("base-0", "other", vector=QUERIES[0], change=1)])
    facts = live.rebuilt().index.facts
    assert built.facts["stored"] == facts["stored"] == "bfloat16"
    assert facts["max_memory_mib"] == 0.75 * full


def test_filters_of_added_rows():
    live = live_index()
    points = unit(50, 3)
    put = [Item(f"new-{n}", f"x{n % 2}", {"color": COLORS[n % 3]}, points[n], n + 1) for n in range(50)]
    live.apply(put)
    live.apply([Item("new-4", deleted=True, change=51)])
    where = Filter.parse({"label": "x0", "attributes": {"color": ["blue", "green"]}})
    expected = [item.id for item in put if item.label == "x0" and item.attributes["color"] == "blue"]
    assert [item.id for item in live.items(where)] == [id_ for id_ in expected if id_ != "new-4"]


def test_queries_that_do_not_fit():
    with pytest.raises(DataError, match="E_QUERY_SHAPE"):
        live_index().search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(DataError, match="E_VECTOR_NOT_FINITE"):
        live_index().search(np.full((1, DIMENSION), np.nan, np.float32), 1)
    with pytest.raises(UsageError, match="E_NEIGHBORS"):
        live_index().search(QUERIES, 0)


def test_parts_that_do_not_belong_together():
    with pytest.raises(DataError, match="E_RELEASE_MIXED"):
        LiveIndex(INDEX, gallery_of(59), BASE)
    with pytest.raises(DataError, match="E_RELEASE_MIXED"):
        LiveIndex(INDEX, gallery_of(60), BASE[:, :4])


def test_values_of_attributes():
    live = live_index()
    live.apply([
        Item("base-0", deleted=True, change=1),
        Item("new", "x", {"color": "green", "size": "big"}, QUERIES[0], 2),
    ])  # fmt: skip
    assert live.attribute_values() == {"color": [("blue", 20), ("red", 19), ("green", 1)], "size": [("big", 1)]}
    assert live.attribute_values(most=1) == {"color": [("blue", 20)], "size": [("big", 1)]}


operations = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["base-1", "base-2", "base-3", "new-1", "new-2", "new-3"]),
            st.sampled_from(["put", "delete"]),
            st.integers(0, 7),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda operation: operation[0],
    ),
    max_size=12,
)


@given(batches=operations, rebuild_after=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_any_sequence_of_changes_leaves_what_a_dict_has(batches, rebuild_after):
    live, model, change = live_index(), as_model(), 0
    points = unit(8, 2)
    for place, batch in enumerate(batches):
        items = []
        for id_, kind, number in batch:
            change += 1
            color = COLORS[number % 3]
            attributes = {"color": color} if color else {}
            put = Item(id_, f"class-{number % 7}", attributes, points[number], change)
            items.append(put if kind == "put" else Item(id_, deleted=True, change=change))
            model.pop(id_, None)
            if kind == "put":
                model[id_] = put
        live.apply(items)
        if place == rebuild_after:
            live = live.rebuilt()
            assert live.changed_share() == 0
    assert (live.rows, live.change) == (len(model), change)
    assert {item.id: item.label for item in live.items()} == {item.id: item.label for item in model.values()}
    asked = (
        (None, lambda item: True),
        ({"attributes": {"color": "red"}}, lambda item: item.attributes.get("color") == "red"),
        ({"attributes": {"color": ["", "blue"]}}, lambda item: item.attributes.get("color") in (None, "blue")),
        ({"id": ["base-0", "base-1", "new-1"]}, lambda item: item.id in ("base-0", "base-1", "new-1")),
    )
    for content, accept in asked:
        where = None if content is None else Filter.parse(content)
        for hits, query in zip(live.search(QUERIES, 10, where), QUERIES, strict=True):
            expected = nearest(model, query, 10, accept)
            assert len(hits.ids) == len(set(hits.ids)) == len(expected)
            np.testing.assert_allclose(
                hits.scores, [model[id_].vector @ query for id_ in expected], atol=1e-6
            )  # ids of equal vectors may swap
            for id_, label, attributes in zip(hits.ids, hits.labels, hits.attributes, strict=True):
                assert (label, attributes) == (model[id_].label, model[id_].attributes)
