"""Embedding-aware samplers: what they are updated with and when, also after a resumption."""

import threading

import numpy as np
import pytest
from keras import ops

from anchorage.data.sampling import HierarchicalBatches
from anchorage.training.fit import fit_learner

NEAR = {"groups": 2, "classes_per_group": 2, "per_class": 2}


class Watched(HierarchicalBatches):
    """Notes which step was read for training, which another thread does, after how many updates."""

    def __init__(self, *args, **params):
        self.updates, self.asked = 0, set()
        super().__init__(*args, **params)

    def batch(self, step):
        if threading.current_thread() is not threading.main_thread():
            self.asked.add((step, self.updates))
        return super().batch(step)

    def update(self, embeddings):
        super().update(embeddings)
        self.updates += 1


@pytest.fixture(scope="module")
def trained(store, build):
    learner = build(epochs=3)
    sampler = Watched(store.labels, **NEAR, seed=3)
    result = fit_learner(learner, store, None, sampler, epochs=3, steps_per_epoch=5, seed=3, verbose=0)
    return learner, sampler, result


def test_the_batches_of_an_epoch_are_made_after_the_refresh_before_it(trained):
    _, sampler, result = trained
    assert len(result.history) == 4
    assert sampler.asked == {(step, 1 + step // 5) for step in range(15)}


def test_centres_are_of_the_network_as_it_is(trained, store):
    learner, sampler, _ = trained
    rows = sampler.probes(15)
    embeddings = ops.convert_to_numpy(learner.encoder(store.read(rows))).astype("float64")
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(sampler.centres, embeddings.reshape(8, 2, -1).mean(axis=1), atol=1e-5)


@pytest.mark.thorough
def test_fifty_steps_and_fifty_more_equal_a_hundred(goes_on, settings):
    sampler = {"name": "hierarchical_batches", "params": NEAR}
    goes_on(settings(sampler=sampler, epochs=5, steps_per_epoch=20), stops=(50,))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "n_pair_batches", "params": {"pairs": 4, "mining": "hard_class", "candidates": 6}},
        {
            "name": "representative_batches",
            "params": {"classes": 4, "per_class": 2, "lifetime": 3, "mining": "hard_class"},
        },
    ],
    ids=lambda sampler: sampler["name"],
)
def test_goes_on_within_an_epoch_and_between_two(goes_on, settings, sampler):
    goes_on(settings(sampler=sampler, epochs=3, steps_per_epoch=4), stops=(4, 7))
