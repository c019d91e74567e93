import numpy as np
import pytest

from anchorage.errors import DataError, UsageError
from anchorage.retrieval.metrics import evaluate_retrieval
from anchorage.retrieval.protocols import PROTOCOLS, evaluate_protocol


@pytest.fixture(scope="module")
def space():
    rng = np.random.default_rng(0)
    labels = np.arange(66) % 6
    vectors = rng.normal(size=(6, 8))[labels] + 1.2 * rng.normal(size=(66, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32"), labels


@pytest.mark.parametrize("name", ["cub", "cars196", "inaturalist"])
def test_everybody_asks_all_others(space, name):
    found = evaluate_protocol(name, *space)
    assert tuple(found.values) == PROTOCOLS[name].metrics
    assert found.values == evaluate_retrieval(*space, metrics=PROTOCOLS[name].metrics).values
    assert found.results[0].num_queries == found.results[0].num_gallery == 66
    assert set(found.spread.values()) == {0.0}


def test_depths_of_the_papers():
    assert PROTOCOLS["sop"].metrics[:4] == ("recall@1", "recall@10", "recall@100", "recall@1000")
    assert PROTOCOLS["in_shop"].metrics[:5] == ("recall@1", "recall@10", "recall@20", "recall@30", "recall@40")


def test_in_shop_asks_by_role(space):
    vectors, labels = space
    roles = np.where(np.arange(66) < 20, "query", "gallery")
    found = evaluate_protocol("in_shop", vectors, labels, roles)
    assert (found.results[0].num_queries, found.results[0].num_gallery) == (20, 46)
    with pytest.raises(DataError, match="E_ROLE"):
        evaluate_protocol("in_shop", vectors, labels)
    with pytest.raises(DataError, match="E_ROLE"):
        evaluate_protocol("in_shop", vectors, labels, np.full(66, "both"))


def test_one_image_a_class_is_drawn_ten_times(space):
    found = evaluate_protocol("vehicle_id", *space, seed=1)
    assert [result.num_gallery for result in found.results] == [6] * 10
    assert [result.num_queries for result in found.results] == [60] * 10
    firsts = [result.values["recall@1"] for result in found.results]
    assert len(set(firsts)) > 3
    assert found.values["recall@1"] == pytest.approx(np.mean(firsts))
    assert found.spread["recall@1"] == pytest.approx(np.std(firsts, ddof=1))
    for result in found.results:  # one right answer: AP is 1 / its rank, at least 1/6
        assert result.per_query["map"].min() >= 1 / 6 - 1e-12
    assert evaluate_protocol("vehicle_id", *space, seed=1).values == found.values
    assert evaluate_protocol("vehicle_id", *space, seed=2).values != found.values


def test_unknown_protocol(space):
    with pytest.raises(UsageError, match=r"E_PROTOCOL: .* cub, cars196, sop.* Received: 'mnist'"):
        evaluate_protocol("mnist", *space)
