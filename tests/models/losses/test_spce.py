"""SPCELoss against the formula in NumPy."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from anchorage.losses.spce import SPCELoss

VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "06-unifying-mutual-information.json"


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.5, 20.0), st.booleans(), st.integers(0, 2**16))
def test_matches_reference(rows, classes, scale, all_classes, seed):
    rng = np.random.default_rng(seed)
    z, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    sums = {c: z[labels == c].sum(axis=0) * scale / rows for c in (range(classes) if all_classes else set(labels))}
    wanted = np.mean([logsumexp([z[i] @ s for s in sums.values()]) - z[i] @ sums[labels[i]] for i in range(rows)])
    params = {"classes": "all", "num_classes": classes} if all_classes else {}
    assert float(SPCELoss(scale, **params, dtype="float64")(z, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("name", "normalize", "wanted"),
    [
        ("spce_batch_classes", False, [-0.2180555556, 1.2160899147]),
        ("spce_normalised", True, [-0.4315540497, 0.8795748127]),
    ],
)
def test_published_terms(name, normalize, wanted):
    case = next(case for case in json.loads(VECTORS.read_text()) if case["name"] == name)
    loss = SPCELoss(normalize=normalize, dtype="float64")
    terms = loss.terms(np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"]))
    np.testing.assert_allclose(terms, wanted, rtol=1e-9)


def test_one_class_costs_nothing():
    z = np.random.default_rng(0).normal(size=(5, 3))
    assert float(SPCELoss(dtype="float64")(z, np.zeros(5, int))) == pytest.approx(0.0, abs=1e-12)


def test_rejects_invalid_arguments():
    with pytest.raises(ValueError, match=r"`scale` must be positive. Received: scale=0"):
        SPCELoss(scale=0)
    with pytest.raises(ValueError, match=r"`classes` must be 'batch' or 'all'. Received: classes='some'"):
        SPCELoss(classes="some")
    with pytest.raises(ValueError, match=r"`num_classes` is required with classes='all'"):
        SPCELoss(classes="all")
