import numpy as np
import pytest
from tables import clusters

from anchorage.errors import DataError
from anchorage.judging.numbers import evaluate
from anchorage.judging.settings import QueryProtocol
from anchorage.judging.untrained import compare_untrained


def test_baselines_answer_the_queries_of_the_candidate():
    candidate, baseline = clusters(0.3), clusters(3.0)
    result = evaluate(candidate, ["map@r", "recall@1"], QueryProtocol())
    mixed = baseline.select(np.random.default_rng(0).permutation(len(baseline)))
    [found] = compare_untrained(candidate, result, {"raw pixels": mixed}, QueryProtocol())
    alone = evaluate(baseline, ["map@r", "recall@1"], QueryProtocol())
    assert found.name == "raw pixels"
    for name in ("map@r", "recall@1"):
        ours, theirs = found.per_query[name]
        np.testing.assert_array_equal(ours, result.per_query[name])
        np.testing.assert_array_equal(theirs, alone.per_query[name])
    assert found.query_labels.tolist() == candidate.labels.tolist()


def test_columns_and_roles_are_those_of_the_candidate():
    """A baseline's table knows the images alone: what a query may not meet stands in the candidate's."""
    candidate, baseline = clusters(0.6, per_class=6), clusters(3.0, per_class=6)
    candidate.columns["family"] = np.array([f"family {n % 3}" for n in range(36)], object)
    candidate.roles[::6] = "gallery"
    result = evaluate(candidate, ["map@r"], QueryProtocol("family"))
    [found] = compare_untrained(candidate, result, {"raw pixels": baseline}, QueryProtocol("family"))
    baseline.columns["family"] = candidate.columns["family"]
    baseline.roles[:] = candidate.roles
    expected = evaluate(baseline, ["map@r"], QueryProtocol("family")).per_query["map@r"]
    assert len(expected) == 30
    np.testing.assert_array_equal(found.per_query["map@r"][1], expected)


def test_a_baseline_without_some_image_is_refused():
    candidate = clusters(0.3)
    result = evaluate(candidate, ["map@r"], QueryProtocol())
    with pytest.raises(DataError, match=r"E_BASELINE_MISSING: .* by the raw pixels for all 30 .* none for 2"):
        compare_untrained(candidate, result, {"raw pixels": candidate.select(range(28))}, QueryProtocol())
