"""Copies of the vectors that repeated filters keep: the same results as without, within a bound, from many threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anchorage.items import Item
from anchorage.retrieval import gathered as gathered_module
from anchorage.retrieval.filters import Filter
from anchorage.retrieval.gathered import GatheredVectors
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.live import LiveIndex

ROWS, DIM, COLORS = 3_000, 8, 10
ROW_BYTES = 4 * DIM + 8  # vector, and number of the row


def unit(rows, seed):
    vectors = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


BASE, QUERIES = unit(ROWS, 0), unit(20, 1)
COLOR_OF = np.random.default_rng(2).integers(0, COLORS, ROWS)


def color(*values):
    return Filter.parse({"attributes": {"color": [str(value) for value in values]}})


def rows_of(*values):
    return np.flatnonzero(np.isin(COLOR_OF, values))


@pytest.fixture(autouse=True)
def copies_of_few_rows(monkeypatch):
    monkeypatch.setattr(gathered_module, "_FEWEST_ROWS", 100)


def use(table, *values):
    return table.find(color(*values), lambda: rows_of(*values))


def is_kept(table, value):
    """Whether there is a copy: only then the rows are not asked for."""

    def refuse():
        raise LookupError

    try:
        return table.find(color(value), refuse).vectors is not None
    except LookupError:
        return False


def test_the_second_use_copies_the_vectors_and_later_ones_find_them():
    table = GatheredVectors(BASE)
    first, second, third = (use(table, 3) for _ in range(3))
    assert first.vectors is None
    assert third is second
    for matches in (first, second):
        np.testing.assert_array_equal(matches.rows, rows_of(3))
    np.testing.assert_array_equal(second.vectors, BASE[COLOR_OF == 3])


def test_a_filter_of_few_rows_is_not_copied():
    table = GatheredVectors(BASE)
    assert all(table.find(color(3), lambda: np.arange(99)).vectors is None for _ in range(4))


def test_the_least_recently_used_copies_are_dropped_at_the_bound():
    sizes = [ROW_BYTES * len(rows_of(value)) + 1_000 for value in range(3)]  # with the texts of the filter
    table = GatheredVectors(BASE, most_bytes=sizes[0] + max(sizes[1:]))
    for value in (0, 1):
        use(table, value), use(table, value)
    use(table, 0)
    use(table, 2), use(table, 2)
    assert [is_kept(table, value) for value in range(3)] == [True, False, True]


def test_the_bound_counts_every_copy_and_the_texts_of_filters(monkeypatch):
    copied = []
    take = GatheredVectors._gather
    monkeypatch.setattr(GatheredVectors, "_gather", lambda *of: copied.append(take(*of)) or copied[-1])
    one = ROW_BYTES * 150
    table = GatheredVectors(BASE, most_bytes=4 * one)
    rows = np.arange(150)
    for value in range(40):
        for _ in range(2):
            table.find(color(value), lambda: rows)
    kept = [value for value in range(40) if is_kept(table, value)]
    assert len(copied) == 40
    assert kept == [37, 38, 39]  # four would fit without their texts
    long = color("x" * (4 * one))
    assert all(table.find(long, lambda: rows).vectors is None for _ in range(3))


def test_filters_that_were_used_once_are_forgotten(monkeypatch):
    monkeypatch.setattr(gathered_module, "_SEEN", 3)
    table = GatheredVectors(BASE)
    for value in (0, 1, 2, 3):
        use(table, value)
    assert use(table, 0).vectors is None
    assert use(table, 3).vectors is not None


@pytest.fixture(scope="module")
def index():
    return build_index(BASE)


def new_gallery(index):
    texts = {"id": [f"i{row}" for row in range(ROWS)], "label": [""] * ROWS, "attribute/color": COLOR_OF.astype(str)}
    return LiveIndex(index, {name: np.array(list(values), object) for name, values in texts.items()}, BASE)


def nearest(items, query, k=10):
    """Ids of the nearest of a dict of vectors, in float64."""
    scores = {id_: float(vector.astype(np.float64) @ query) for id_, vector in items.items()}
    return sorted(scores, key=lambda id_: -scores[id_])[:k]


def test_results_follow_deleted_changed_and_added_items(index):
    live = new_gallery(index)
    wanted = color(3)
    items = {f"i{row}": BASE[row] for row in rows_of(3)}

    def check():
        for query in QUERIES:
            assert live.search(query[None], 10, wanted)[0].ids.tolist() == nearest(items, query)
        together = live.search(QUERIES, 10, wanted)
        assert [hits.ids.tolist() for hits in together] == [nearest(items, query) for query in QUERIES]

    check()
    random, fresh = np.random.default_rng(4), unit(60, 5)
    for number in range(3):
        of_release = sorted(id_ for id_ in items if id_.startswith("i"))
        gone, moved, away = random.choice(of_release, (3, 10), replace=False)
        vectors = fresh[20 * number : 20 * number + 20]
        live.apply([Item(id_, deleted=True) for id_ in gone])
        live.apply([Item(id_, attributes={"color": "4"}, vector=BASE[0]) for id_ in away])
        put = dict(zip([*moved, *(f"new{number}.{place}" for place in range(10))], vectors, strict=True))
        live.apply([Item(id_, attributes={"color": "3"}, vector=vector) for id_, vector in put.items()])
        items = {id_: vector for id_, vector in items.items() if id_ not in {*gone, *away}} | put
        check()
    most = sorted(id_ for id_ in items if id_.startswith("i"))[:-40]
    live.apply([Item(id_, deleted=True) for id_ in most])
    items = {id_: vector for id_, vector in items.items() if id_ not in most}
    check()


def test_threads_that_use_and_drop_copies_get_the_vectors_of_their_filter():
    table = GatheredVectors(BASE, most_bytes=3 * ROW_BYTES * ROWS // COLORS)

    def work(seed):
        for value in np.random.default_rng(seed).integers(0, COLORS, 2_000).tolist():
            rows, vectors = use(table, value)
            assert np.array_equal(rows, rows_of(value))
            assert vectors is None or np.array_equal(vectors, BASE[rows])

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
