"""The index that is built is the fastest within its limits, measured on probes that it was not chosen with."""

import numpy as np
import pytest
from spaces import clustered_rows

from anchorage.errors import DataError, GateError, UsageError
from anchorage.retrieval import index_tuning
from anchorage.retrieval.index import search
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits, Probes, Trial, choose, fastest_by_recall, measure
from anchorage.retrieval.neighbors import nearest_neighbors


@pytest.fixture(scope="module")
def tree():
    """A tree over just as many rows as get one."""
    vectors = clustered_rows(20_000)
    return vectors, build_index(vectors, labels=np.arange(20_000) // 10)


def test_few_rows_are_searched_exactly_and_the_index_states_it():
    vectors = clustered_rows(400)
    index = build_index(vectors, neighbors=5, limits=IndexLimits(1.0), leaves=2000)  # more leaves than rows
    assert index.facts["kind"] == "brute_force"
    assert index.facts["reason"].startswith("400 rows are fewer than 20,000: brute force")
    assert index.facts["recall"] == 1.0
    rows, similarities = search(index, vectors[:50], 5)
    expected, expected_similarities = nearest_neighbors(vectors[:50], vectors, 5)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarities, expected_similarities, atol=1e-6)


def test_many_rows_get_a_tree_with_the_recall_asked_for(tree):
    vectors, index = tree
    facts = index.facts
    assert (facts["kind"], facts["rows"], facts["dimension"], facts["leaves"]) == ("tree_ah", 20_000, 16, 141)
    assert facts["normalized"] is True
    assert facts["recall"] >= facts["min_recall"] == 0.95
    held_out = np.random.default_rng(9).permutation(20_000)[:2000]
    rows, _ = search(index, vectors[held_out], 11)
    exact, _ = nearest_neighbors(vectors[held_out], vectors, 10, held_out)
    found = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(rows, exact, strict=True)])
    assert found > 0.94  # the standard error over the probes is 0.004


def test_the_chosen_parameters_are_among_the_fastest_of_a_dense_sweep(tree):
    _, index = tree
    facts = index.facts
    parameters = ("leaves_to_search", "reorder")
    chosen = [trial for trial in facts["trials"] if all(trial[name] == facts[name] for name in parameters)]
    assert chosen[-1]["recall"] == facts["recall"]
    assert len({(t["leaves_to_search"], t["reorder"]) for t in facts["trials"]}) > 10
    # CPU time is noisy, so work is compared: no cheaper parameters in both numbers have the recall by a clear margin.
    for trial in facts["trials"]:
        if trial["leaves_to_search"] < facts["leaves_to_search"] and trial["reorder"] <= facts["reorder"]:
            assert trial["recall"] < facts["min_recall"] + 0.02


def test_recall_of_rare_classes_is_measured_by_itself(tree):
    _, index = tree
    assert index.facts["rare"]["largest_class"] == 10
    assert index.facts["rare"]["recall"] > 0.9


def test_recall_is_measured_against_exact_search(tree, monkeypatch):
    vectors, index = tree
    probes = Probes(vectors, None, 10, seed=3)
    assert probes.recall(index.with_facts(leaves_to_search=141, reorder=2000)) == 1.0
    forgetful = probes.recall(index.with_facts(leaves_to_search=1, reorder=60))
    assert 0.2 < forgetful < 1.0

    def without_the_nearest(index, queries, k):
        rows, similarities = nearest_neighbors(queries, vectors, k + 1)
        keep = np.r_[0, 2 : k + 1]  # the probe itself stays, its nearest neighbor goes
        return rows[:, keep], similarities[:, keep]

    monkeypatch.setattr(index_tuning, "search", without_the_nearest)
    assert probes.recall(index) == pytest.approx(0.9)


def test_half_of_the_queries_choose_and_the_other_half_check():
    queries = clustered_rows(300, seed=2)
    index = build_index(clustered_rows(500), probes=queries, limits=IndexLimits(1.0))
    assert index.facts["probes"] == 150


def test_parameters_that_were_lucky_in_the_choice_are_not_taken(tree, monkeypatch):
    vectors, index = tree
    recalls = {(1, 20): 0.94, (2, 20): 0.97, (3, 20): 0.99}
    monkeypatch.setattr(
        Probes, "recall", lambda self, index: recalls[index.facts["leaves_to_search"], index.facts["reorder"]]
    )
    trials = [Trial(141, 0, "float32", leaves, 20, 0.96, 0.1 * leaves, None, 1.0) for leaves in (3, 2, 1)]
    chosen, checked = choose(index, trials, Probes(vectors, None, 10, seed=0), IndexLimits(0.95))
    assert (chosen.leaves_to_search, chosen.recall) == (2, 0.97)
    assert [trial.leaves_to_search for trial in checked] == [1, 2]


def test_index_that_forgets_too_much_is_refused(tree, monkeypatch):
    vectors, _ = tree
    monkeypatch.setattr(index_tuning.Probes, "search", lambda self, index: (0.5, 0.1))
    with pytest.raises(GateError, match=r"E_INDEX_RECALL: .* at least 0\.9 .* Received: 0\.5000 at most"):
        build_index(vectors, limits=IndexLimits(0.9))


def test_the_nearest_index_is_named_if_none_keeps_to_the_limits():
    vectors = clustered_rows(2_000)
    with pytest.raises(GateError, match=r"E_INDEX_LIMITS: .* recall 0\.9, 0\.01 MiB\. .* nearest, brute force: rec"):
        build_index(vectors, limits=IndexLimits(0.9, max_memory_mib=0.01))


def test_short_memory_is_kept_to_with_smaller_numbers(tree):
    vectors, full = tree
    needed = full.facts["trials"][0]["memory_mib"]
    small = build_index(vectors, limits=IndexLimits(0.9, max_memory_mib=0.75 * needed))
    assert (full.facts["stored"], small.facts["stored"]) == ("float32", "bfloat16")
    assert small.facts["recall"] >= 0.9


@pytest.mark.parametrize("memory", [0, 0.7])
def test_memory_is_predicted(tmp_path, tree, memory):
    vectors, index = tree
    predicted = index.facts["trials"][0]["memory_mib"]
    if memory:
        index = build_index(vectors, limits=IndexLimits(0.5, max_memory_mib=memory * predicted))
        predicted = index.facts["trials"][0]["memory_mib"]
    index.searcher.serialize(str(tmp_path), relative_path=True)
    files = sum(path.stat().st_size for path in tmp_path.iterdir()) / 2**20
    assert predicted == pytest.approx(files, rel=0.1)


def test_a_tree_stands_in_where_exact_search_takes_too_long(monkeypatch):
    vectors = clustered_rows(3_000)

    def p99_ms(self, index):
        return 0.1 if index.facts["leaves"] else 5.0

    monkeypatch.setattr(Probes, "p99_ms", p99_ms)
    assert build_index(vectors, limits=IndexLimits(0.9, max_p99_ms=1)).facts["kind"] == "tree_ah"
    assert build_index(vectors, limits=IndexLimits(0.9, max_p99_ms=10)).facts["kind"] == "brute_force"


def test_the_search_for_parameters_stops_where_recall_is_enough_or_time_is_lost(tree):
    vectors, index = tree
    trials = measure(index, Probes(vectors, None, 10, seed=0), IndexLimits(0.9), 1.0)
    assert len(trials) < 120
    assert max(trial.leaves_to_search for trial in trials) < 141


def test_fastest_by_recall():
    trials = [{"ms": ms, "recall": recall} for ms, recall in [(3, 0.9), (1, 0.5), (2, 0.4), (4, 0.9), (5, 0.99)]]
    assert [(trial["ms"], trial["recall"]) for trial in fastest_by_recall(trials)] == [(1, 0.5), (3, 0.9), (5, 0.99)]


@pytest.mark.parametrize("rows", [100, 20_000])
@pytest.mark.parametrize(
    ("value", "code"), [(np.nan, "E_VECTOR_NOT_FINITE"), (np.inf, "E_VECTOR_NOT_FINITE"), (0, "E_VECTOR_ZERO")]
)
def test_f15_bad_vectors_never_reach_native_code(rows, value, code):
    # Without the check ScaNN's tree build would end the process; with the check moved behind the build, this fails too.
    vectors = clustered_rows(rows)
    vectors[[7, 70]] = value
    with pytest.raises(DataError, match=rf"{code}: .* in 2 of {rows} rows: image-7, image-70\."):
        build_index(
            vectors,
            ids=[f"image-{i}" for i in range(rows)],
            build=lambda *_: pytest.fail("native code saw the rows"),
        )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("neighbors", {"neighbors": 0}),
        ("min_recall", {"limits": IndexLimits(1.5)}),
        ("max_p99_ms", {"limits": IndexLimits(0.9, max_p99_ms=-1)}),
        ("max_memory_mib", {"limits": IndexLimits(0.9, max_memory_mib=-1)}),
        ("leaves", {"leaves": -1}),
        ("shard_rows", {"shard_rows": 0}),
    ],
)
def test_settings_out_of_range(name, settings):
    with pytest.raises(UsageError, match=f"E_INDEX_SETTING: Expected `{name}`"):
        build_index(clustered_rows(30), **settings)


def test_nothing_to_index():
    with pytest.raises(DataError, match="E_INDEX_EMPTY"):
        build_index(np.empty((0, 16), "float32"))
