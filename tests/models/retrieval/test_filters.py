"""Filters, against a mask and a full comparison, on an index that is not exact."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.items import Item
from anchorage.retrieval import live as live_index
from anchorage.retrieval.filters import Filter
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.live import LiveIndex

ROWS, NEIGHBORS = 21_000, 10
SHARES = {"0.1 %": 0.001, "1 %": 0.01, "10 %": 0.1, "50 %": 0.5}


def unit(rows, seed):
    vectors = np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def texts(values):
    return np.array(list(values), object)


BASE, QUERIES = unit(ROWS, 0), unit(100, 1)


@pytest.fixture(scope="module")
def gallery():
    random = np.random.default_rng(2)
    columns = {
        f"attribute/{name}": texts(random.choice(["no", "yes"], ROWS, p=[1 - s, s]).tolist())
        for name, s in SHARES.items()
    }
    nearest_axis = np.abs(BASE).argmax(axis=1)  # a label whose items lie together
    return {
        "id": texts(f"i{n}" for n in range(ROWS)),
        "label": texts(f"axis {axis}" for axis in nearest_axis),
        **columns,
    }


@pytest.fixture(scope="module")
def index():
    built = build_index(BASE)  # min_recall 0.95
    assert built.facts["kind"] == "tree_ah"
    return built


def recall(found, mask):
    """Share of the true nearest among the rows of the mask that were found."""
    rows = np.flatnonzero(mask)
    true = QUERIES.astype(np.float64) @ BASE[rows].astype(np.float64).T
    best = rows[np.argsort(-true, axis=1)[:, :NEIGHBORS]]
    shares = [
        len({f"i{row}" for row in expected} & set(hits.ids.tolist())) / len(expected)
        for hits, expected in zip(found, best, strict=True)
    ]
    return np.mean(shares)


@pytest.mark.parametrize("name", SHARES)
def test_recall_at_each_selectivity(index, gallery, name):
    live = LiveIndex(index, gallery, BASE)
    found = live.search(QUERIES, NEIGHBORS, Filter.parse({"attributes": {name: "yes"}}))
    mask = gallery[f"attribute/{name}"] == "yes"
    assert all(hits.attributes[0][name] == "yes" for hits in found)
    assert {len(hits.ids) for hits in found} == {min(NEIGHBORS, mask.sum())}
    assert recall(found, mask) >= 0.99


def test_where_a_search_would_fetch_many_rows_for_few_matches_all_matches_are_compared(index, gallery, monkeypatch):
    def refuse(*_):
        raise AssertionError("the index is searched")

    monkeypatch.setattr(live_index, "_EXACT_ROWS", 0)
    monkeypatch.setattr(live_index, "search", refuse)
    live = LiveIndex(index, gallery, BASE)
    found = live.search(QUERIES, NEIGHBORS, Filter.parse({"attributes": {"1 %": "yes"}}))
    assert recall(found, gallery["attribute/1 %"] == "yes") == 1
    with pytest.raises(AssertionError, match="the index is searched"):
        live.search(QUERIES, NEIGHBORS, Filter.parse({"attributes": {"10 %": "yes"}}))


@pytest.mark.parametrize("k", [1, NEIGHBORS])
def test_enough_rows_are_fetched_for_nearly_all_queries(index, gallery, monkeypatch, k):
    """Where too few of the fetched rows match, all matches are compared, which can take ten times as long.

    The number of matches among the fetched rows is a binomial one. By its tails, 19 % (`k` = 1) and 6 % (10) have too
    few where 1.5 `k` are expected, and 1.5 % and 0.5 % where `k + 3 sqrt(k)` are.
    """
    monkeypatch.setattr(live_index, "_EXACT_ROWS", 0)
    monkeypatch.setattr(live_index, "_EXACT_PER_FETCHED", 0)
    live, compared = LiveIndex(index, gallery, BASE), 0
    compare = live._compare

    def counting(state, queries, *rest):
        nonlocal compared
        compared += len(queries)
        return compare(state, queries, *rest)

    monkeypatch.setattr(live, "_compare", counting)
    found = live.search(unit(1_000, 3), k, Filter.parse({"attributes": {"1 %": "yes"}}))
    assert {len(hits.ids) for hits in found} == {k}
    assert compared <= 30


def test_a_label_far_from_the_query(index, gallery):
    live = LiveIndex(index, gallery, BASE)
    labels = ["axis 0", "axis 1", "axis 2"]
    found = live.search(QUERIES, NEIGHBORS, Filter.parse({"label": labels}))
    assert recall(found, np.isin(gallery["label"], labels)) >= 0.99


def test_all_conditions_hold_together_and_for_added_items(index, gallery):
    live = LiveIndex(index, gallery, BASE)
    live.apply([
        Item("new", "axis 3", {"10 %": "yes", "50 %": "yes"}, QUERIES[0], 1),
        Item("other", "axis 3", {"10 %": "no", "50 %": "yes"}, QUERIES[0], 2),
    ])  # fmt: skip
    where = Filter.parse({"label": ["axis 3", "axis 4"], "attributes": {"10 %": "yes", "50 %": ["yes"]}})
    first = live.search(QUERIES[:1], NEIGHBORS, where)[0]
    mask = np.isin(gallery["label"], ["axis 3", "axis 4"])
    mask &= (gallery["attribute/10 %"] == "yes") & (gallery["attribute/50 %"] == "yes")
    true = np.flatnonzero(mask)[np.argsort(-(BASE[mask] @ QUERIES[0]))[: NEIGHBORS - 1]]
    assert first.ids.tolist() == ["new", *(f"i{row}" for row in true)]


def test_filters_by_id_with_added_and_deleted_items(index, gallery):
    live = LiveIndex(index, gallery, BASE)
    live.apply([Item("i7", deleted=True, change=1), Item("new", vector=QUERIES[0], change=2)])
    found = live.search(QUERIES[:1], 5, Filter.parse({"id": ["i3", "i7", "new", "unknown"]}))[0]
    assert found.ids.tolist() == ["new", "i3"]
    assert live.search(QUERIES[:1], 5, Filter.parse({"id": "unknown"}))[0].ids.tolist() == []


@pytest.mark.parametrize("content", [{"attributes": {"50 %": "maybe"}}, {"attributes": {"weight": "1"}}, {"label": []}])
def test_conditions_that_nothing_meets(index, gallery, content):
    assert LiveIndex(index, gallery, BASE).search(QUERIES[:1], 5, Filter.parse(content))[0].ids.tolist() == []


def test_deleted_rows_do_not_come_back(index, gallery):
    live = LiveIndex(index, gallery, BASE)
    for start in (0, 1):
        gone = [hits.ids.tolist() for hits in live.search(QUERIES, 20)]
        names = sorted({id_ for ids in gone for id_ in ids})
        live.apply([Item(id_, deleted=True, change=start * 5000 + n + 1) for n, id_ in enumerate(names)])
        again = live.search(QUERIES, NEIGHBORS)
        assert all(len(hits.ids) == NEIGHBORS and not set(names) & set(hits.ids.tolist()) for hits in again)


def test_searches_see_a_batch_as_a_whole_or_not_at_all(index, gallery):
    """Each batch moves both of two items to the next pair of values; no search sees one from each."""
    live = LiveIndex(index, gallery, BASE)
    live.apply([Item(name, "0", {"round": "0"}, QUERIES[0], place) for place, name in enumerate("ab", 1)])
    rounds = 300

    def look(_):
        (hits,) = live.search(QUERIES[:1], 2)
        return hits.ids.tolist(), hits.labels.tolist(), [each["round"] for each in hits.attributes]

    with ThreadPoolExecutor(2) as pool:
        looks = pool.map(look, range(400))
        for number in range(1, rounds):
            text = str(number)
            live.apply(
                [Item(name, text, {"round": text}, QUERIES[0], 2 * number + p) for p, name in enumerate("ab", 1)]
            )
        for ids, labels, attributes in looks:
            assert sorted(ids) == ["a", "b"]
            assert len({*labels, *attributes}) == 1


@pytest.mark.parametrize(
    "content",
    [
        "red", ["label"], {"color": "red"}, {"label": 3}, {"label": ["a", 3]}, {"attributes": ["color"]},
        {"attributes": {"color": None}}, {"id": [f"{n}" for n in range(10_001)]},
    ],
)  # fmt: skip
def test_filters_of_another_form(content):
    with pytest.raises(UsageError, match="E_FILTER"):
        Filter.parse(content)
