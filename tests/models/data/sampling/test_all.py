"""What every sampler promises: the same batches from seed, step and centres, whatever was asked before; replicas."""

import copy
import tracemalloc

import numpy as np
import pytest

from models.data.sampling import SAMPLERS, ReplicaBatches
from models.errors import UsageError

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
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_share_a_batch(name, params, replicas):
    sampler = make(name, params)
    labels = None if name == "shuffled_batches" else LABELS
    shares = [ReplicaBatches(sampler, replica, replicas, labels) for replica in range(replicas)]
    for step in range(10):
        whole, parts = sampler.batch(step), [share.batch(step) for share in shares]
        assert {len(part) for part in parts} == {shares[0].batch_size} == {24 // replicas}
        assert sorted(np.concatenate(parts)) == sorted(whole)
        if labels is not None:
            kept = [set(LABELS[part].tolist()) for part in parts]
            assert len(set.union(*kept)) == sum(map(len, kept))  # no class on two replicas
            for part in parts:  # in the order of the whole batch
                assert part.tolist() == [row for row in whole.tolist() if LABELS[row] in LABELS[part]]


def test_a_share_of_representatives_starts_with_them():
    sampler = make("representative_batches", {"classes": 8, "per_class": 3, "lifetime": 5})
    share = ReplicaBatches(sampler, 1, 4, LABELS).batch(9)
    assert share[:2].tolist() == sampler.batch(9)[2:4].tolist()
    assert share.tolist() == sampler.batch(9).reshape(3, 8)[:, 2:4].ravel().tolist()


def test_a_share_passes_on_what_its_sampler_has():
    sampler = make("hierarchical_batches", {"groups": 4, "classes_per_group": 2, "per_class": 3})
    share = ReplicaBatches(sampler, 0, 2, LABELS)
    assert (share.refreshes, share.steps_per_round) == (True, sampler.steps_per_round)
    assert share.get_state()["centres"] is sampler.centres
    assert copy.deepcopy(share).batch(3).tolist() == share.batch(3).tolist()
    plain = ReplicaBatches(make("shuffled_batches", {"batch_size": 24}), 0, 2)
    assert not hasattr(plain, "refreshes")


def test_shares_that_cannot_be_even_are_refused():
    plain = make("shuffled_batches", {"batch_size": 24})
    with pytest.raises(UsageError, match="A batch of 24 rows cannot be dealt evenly to 5 replicas"):
        ReplicaBatches(plain, 0, 5)
    with pytest.raises(UsageError, match=r"`replica` must lie in \[0, 2\). Received: replica=2"):
        ReplicaBatches(plain, 2, 2)
    with pytest.raises(UsageError, match="Expected classes of one size, a multiple of 2 in number"):
        ReplicaBatches(plain, 0, 2, LABELS).batch(0)


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
