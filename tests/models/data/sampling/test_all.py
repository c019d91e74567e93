"""What every sampler promises: the same batches from seed, step and centres, whatever was asked before."""

import tracemalloc

import numpy as np
import pytest

from anchorage.data.sampling import SAMPLERS

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(30), np.arange(30) % 5 + 2))
SETTINGS = {
    "class_batches": [{"classes": 8, "per_class": 3}],
    "hierarchical_batches": [{"groups": 4, "classes_per_group": 2, "per_class": 3}],
    "n_pair_batches": [{"pairs": 12}, {"pairs": 12, "mining": "hard_class", "candidates": 16}],
    "representative_batches": [
        {"classes": 8, "per_class": 3, "lifetime": 5},
        {"classes": 8, "per_class": 3, "lifetime": 5, "mining": "hard_class"},
    ],
    "shuffled_batches": [{"batch_size": 24}],
}
ALL = [pytest.param(name, params, id=f"{name}-{n}") for name, sets in SETTINGS.items() for n, params in enumerate(sets)]


def make(name, params, seed=3, centres=7):
    sampler = SAMPLERS[name](labels=LABELS, seed=seed, **params)
    if getattr(sampler, "refreshes", False):
        probes = sampler.probes(0)
        assert set(LABELS[probes].tolist()) == set(range(30))
        sampler.update(np.random.default_rng(centres).normal(size=(len(probes), 4)))
    return sampler


def batches(sampler, steps):
    return [sampler.batch(step).tolist() for step in steps]


def test_every_sampler_is_tested():
    assert set(SETTINGS) == set(SAMPLERS)


@pytest.mark.parametrize(("name", "params"), ALL)
def test_batches_hang_on_seed_and_step_alone(name, params):
    forward = batches(make(name, params), range(40))
    assert batches(make(name, params), reversed(range(40)))[::-1] == forward
    assert batches(make(name, params, seed=4), range(40)) != forward
    assert {len(batch) for batch in forward} == {24}


@pytest.mark.parametrize(("name", "params"), ALL)
def test_a_copy_with_the_saved_state_goes_on_alike(name, params):
    sampler = make(name, params)
    if not getattr(sampler, "refreshes", False):
        return
    fresh = SAMPLERS[name](labels=LABELS, seed=3, **params)
    unlike = batches(fresh, range(50, 60))
    fresh.set_state(sampler.get_state())
    assert batches(fresh, range(50, 60)) == batches(sampler, range(50, 60)) != unlike
    assert batches(make(name, params, centres=8), range(50, 60)) != batches(sampler, range(50, 60))


@pytest.mark.parametrize(("name", "params"), ALL)
def test_a_batch_takes_no_look_at_all_rows(name, params):
    """With 200,000 rows, nothing near their size is made for a batch within a round."""
    sampler = SAMPLERS[name](labels=np.repeat(np.arange(1_000), 200), seed=0, **params)
    if getattr(sampler, "refreshes", False):
        sampler.update(np.random.default_rng(0).normal(size=(len(sampler.probes(0)), 4)))
    sampler.batch(0)
    tracemalloc.start()
    for step in range(1, 6):
        sampler.batch(step)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000  # bytes
