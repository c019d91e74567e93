"""The median rule."""

import pytest

from anchorage.tuning.stopping import reason_to_stop_trial

# The means of the first two values are 0.4, 0.2 and 0.3.
OTHERS = [(0.3, 0.5, 0.6), (0.1, 0.3, 0.5), (0.2, 0.4, 0.9)]


@pytest.mark.parametrize(
    ("curve", "stops"),
    [
        ((0.1, 0.29), True),
        ((0.29, 0.1), True),
        ((0.1, 0.3), False),
        ((0.3, 0.1), False),
        ((0.19,), True),
        ((0.2,), False),
        ((0.0, 0.0, 0.0), False),  # it was the last validation
    ],
)
def test_the_best_so_far_is_compared_with_the_median_of_the_running_means(curve, stops):
    assert bool(reason_to_stop_trial(curve, OTHERS)) == stops


def test_few_or_shorter_trials_stop_nobody():
    assert not reason_to_stop_trial((0.0,), OTHERS[:2])
    assert not reason_to_stop_trial((0.0, 0.0), [*OTHERS[:2], (0.5, 0.5)])
