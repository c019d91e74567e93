import numpy as np
import pytest
from scipy.stats import skew

from anchorage.retrieval.health import alignment_uniformity, draw_map, effective_rank, hubness
from anchorage.retrieval.pairs import pair_statistics


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


def test_effective_rank_by_hand():
    both = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], "float32")  # two directions, equally strong
    assert effective_rank(both)["effective_rank"] == pytest.approx(2)
    assert effective_rank(both)["spectrum"] == pytest.approx([0.5, 0.5, 0])
    uneven = both * [[3], [3], [1], [1]]  # shares 3/4 and 1/4
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(uneven)["effective_rank"] == pytest.approx(np.exp(entropy))


def test_effective_rank_equals_the_singular_values():
    vectors = np.random.default_rng(0).normal(size=(60, 7)) * np.arange(1, 8)
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    shares = values / values.sum()
    found = effective_rank(vectors)
    assert found["spectrum"] == pytest.approx(shares.tolist())
    assert found["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("point", [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
def test_collapsed_space_uses_no_dimension(point):
    assert effective_rank(np.full((500, 3), point, "float32"))["effective_rank"] == 0


def test_hubness_by_hand():
    answers = np.array([[4, 5], [4, 6], [4, 7], [4, 5]])
    found = hubness(answers, np.arange(4, 10))
    times = np.array([4, 2, 1, 1, 0, 0])
    assert found["skewness"] == pytest.approx(skew(times))
    assert found["never_found"] == pytest.approx(1 / 3)
    assert found["hubs"][:2] == [{"row": 4, "times": 4}, {"row": 5, "times": 2}]
    assert found["histogram"] == {"times": [0, 1, 2, 4], "items": [2, 2, 1, 1]}
    assert hubness(np.array([[0], [1]]), np.arange(2))["skewness"] == 0


def test_alignment_and_uniformity_equal_all_pairs():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 60)
    vectors = unit(rng.normal(size=(5, 6))[labels] + 0.5 * rng.normal(size=(60, 6)))
    found = alignment_uniformity(pair_statistics(vectors, labels, np.full(60, "both")))
    squared = ((vectors[:, None] - vectors) ** 2).sum(axis=2)
    others = ~np.eye(60, dtype=bool)
    assert found["alignment"] == pytest.approx(squared[(labels[:, None] == labels) & others].mean(), abs=1e-3)
    assert found["uniformity"] == pytest.approx(np.log(np.exp(-2 * squared[others]).mean()), abs=1e-3)


def test_map_keeps_clusters_together_and_repeats():
    rng = np.random.default_rng(4)
    labels = np.arange(80) % 4
    vectors = unit(rng.normal(size=(4, 10))[labels] + 0.1 * rng.normal(size=(80, 10)))
    found = draw_map(vectors, seed=1, most=50)
    assert len(found["rows"]) == len(found["x"]) == len(found["y"]) == 50
    assert found["trustworthiness"] > 0.9
    assert draw_map(vectors, seed=1, most=50) == found
    assert draw_map(vectors[:49], seed=1) is None
