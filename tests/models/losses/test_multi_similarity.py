"""MultiSimilarityLoss against hand-worked values, a plain loop over pairs and its limits."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.multi_similarity import MultiSimilarityLoss

VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "11-multi-similarity.json"


def reference(embeddings, labels, alpha, beta, base, eps, mining):
    s = embeddings @ embeddings.T
    total = 0.0
    for i in range(len(labels)):
        positives = [s[i, k] for k in range(len(labels)) if k != i and labels[k] == labels[i]]
        negatives = [s[i, k] for k in range(len(labels)) if labels[k] != labels[i]]
        if mining:
            kept = [x for x in positives if negatives and x < max(negatives) + eps]
            negatives = [x for x in negatives if positives and x > min(positives) - eps]
            positives = kept
        total += np.log1p(sum(np.exp(-alpha * (x - base)) for x in positives)) / alpha
        total += np.log1p(sum(np.exp(beta * (x - base)) for x in negatives)) / beta
    return total / len(labels)


def test_hand_worked_batch():
    # orthogonal pair of one class, no negatives: each anchor has log(1 + exp(2 * 0.5)) / 2
    loss = MultiSimilarityLoss(mining=False)
    assert float(loss(np.eye(2, dtype="float32"), np.array([7, 7]))) == pytest.approx(np.log1p(np.e) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("params", "case", "wanted"),
    [
        ({"beta": 50, "base": 1}, "paper_setting_lambda1", 0.7210436639),
        ({"beta": 40, "base": 0.5}, "repo_setting_lambda_half_beta40", 0.6968297832),
        ({"mining": False}, "pml_defaults_no_mining", 0.3462537976),
    ],
    ids=["ms_paper", "ms_repo", "library"],
)
def test_parameter_sets_of_the_docstring(params, case, wanted):
    inputs = next(found for found in json.loads(VECTORS.read_text()) if found["name"] == case)["inputs"]
    value = MultiSimilarityLoss(**params, dtype="float64")(np.array(inputs["embeddings"]), np.array(inputs["labels"]))
    assert float(value) == pytest.approx(wanted, rel=1e-9)


# pytorch-metric-learning 2.9.0 in float64: MultiSimilarityLoss(2, 10, 0.8) and its distances, rows of default_rng(5).
@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({"distance": "euclidean"}, 1.277782481521853),
        ({"distance": "squared_euclidean"}, 2.5297319911192364),
        ({"distance": "snr"}, 6.566999799330413),
        ({"distance": "cosine"}, 1.4761183300798337),
        ({"normalize": False}, 2.5995468149710663),
    ],
)
def test_distances_have_the_values_of_another_library(params, wanted):
    x, labels = np.random.default_rng(5).normal(size=(8, 3)), np.array([0, 0, 1, 1, 2, 2, 2, 0])
    loss = MultiSimilarityLoss(beta=10, base=0.8, mining=False, **params, dtype="float64")
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-7)


def test_mining_by_distances_is_that_by_their_negatives():
    # Anchor 0 has a positive at distance 1, negatives at 1.05 and 3; the others have nothing to compare.
    x, labels = np.array([[0.0], [1.0], [-1.05], [3.0]]), np.array([0, 0, 1, 2])
    loss = MultiSimilarityLoss(distance="euclidean", normalize=False, base=0.5, beta=4.0, dtype="float64")
    # 0: positive 1 < 1.05 + 0.1 and negative 1.05 < 1 + 0.1 stay, 3 goes; 1: negatives 2.05 and 2 lie beyond 1 + 0.1.
    wanted = np.log1p(np.exp(2 * 0.5)) / 2 + np.log1p(np.exp(-4 * 0.55)) / 4
    assert float(loss(x, labels)) == pytest.approx(wanted / 4, rel=1e-6)


def test_one_class_with_mining_costs_nothing():
    assert float(MultiSimilarityLoss()(np.eye(3, dtype="float32"), np.array([1, 1, 1]))) == 0.0


@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.floats(0.5, 5.0),
    st.floats(1.0, 60.0),
    st.floats(-0.5, 1.0),
    st.floats(0.0, 0.5),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, alpha, beta, base, eps, mining, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    loss = MultiSimilarityLoss(alpha, beta, base, eps, mining, dtype="float64")
    wanted = reference(units, labels, alpha, beta, base, eps, mining)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_reducer_takes_the_costs_of_the_anchors():
    # The two anchors of class 0 cost log(1 + exp(2 * 0.5)) / 2 each, the third nothing.
    x, labels = np.eye(3), np.array([0, 0, 1])
    loss = MultiSimilarityLoss(beta=1e3, mining=False, reducer={"name": "class_weighted", "weights": [3.0, 1.0]})
    assert float(loss(x, labels)) == pytest.approx(3 * 2 * np.log1p(np.e) / 2 / 3, rel=1e-6)
    loss = MultiSimilarityLoss(beta=1e3, mining=False, reducer="sum")
    assert float(loss(x, labels)) == pytest.approx(np.log1p(np.e), rel=1e-6)


def test_a_wide_slack_keeps_all_pairs():
    rng = np.random.default_rng(3)
    batch = rng.normal(size=(10, 4)).astype("float32"), np.arange(10) % 3
    assert float(MultiSimilarityLoss(eps=2.1)(*batch)) == pytest.approx(
        float(MultiSimilarityLoss(mining=False)(*batch)), rel=1e-6
    )


def test_sharp_limit_is_a_hinge_on_the_hardest_pairs():
    # cosines 0.6 within the class and at most 0.8 across it, base 0.7: hinges 0.1 and 0.1 for each anchor
    embeddings = np.array([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]], "float32")
    loss = MultiSimilarityLoss(alpha=3000.0, beta=3000.0, base=0.7, mining=False)
    # anchors 0 and 1: positive 0.6, negatives 0.8 and 0.96; anchor 2: no positive, negatives 0.8 and 0.96
    wanted = ((0.1 + 0.1) + (0.1 + 0.26) + 0.26) / 3
    assert float(loss(embeddings, np.array([0, 0, 1]))) == pytest.approx(wanted, abs=1e-3)


def test_separated_classes_cost_nothing_without_slack():
    # every positive is nearer than every negative: mining leaves no pair
    embeddings = np.array([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]])
    batch = embeddings, np.array([0, 0, 1, 1])
    assert float(MultiSimilarityLoss(eps=0.0, dtype="float64")(*batch)) == 0.0
    assert float(MultiSimilarityLoss(mining=False, dtype="float64")(*batch)) > 0.1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"alpha": 0}, "`alpha` must be positive. Received: alpha=0"),
        ({"beta": -1.0}, "`beta` must be positive. Received: beta=-1.0"),
        ({"base": 1.5}, r"`base` must lie in \[-1, 1\]. Received: base=1.5"),
        ({"distance": "arc"}, "`distance` must be one of .*Received: distance='arc'"),
        ({"distance": "snr", "base": -1}, "`base` must not be negative. Received: base=-1"),
        ({"eps": -0.1}, "`eps` must not be negative. Received: eps=-0.1"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        MultiSimilarityLoss(**params)
