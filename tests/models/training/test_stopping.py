"""When a training ends before its last epoch."""

import pytest

from anchorage.training.stopping import reason_to_stop


def stops(values, epochs=18, **options):
    history = [{"epoch": epoch, "val_map@r": value} for epoch, value in enumerate(values)]
    return reason_to_stop(history, monitor="map@r", epochs=epochs, **options)


# A quarter of 18 epochs: five.
@pytest.mark.parametrize(
    ("values", "stopped"),
    [
        ([0.36], False),
        ([0.36, 0.05, 0.05, 0.05, 0.05], False),
        ([0.36, 0.05, 0.05, 0.05, 0.05, 0.05], True),
        ([0.36, 0.05, 0.37, 0.05, 0.05, 0.05], False),  # it has been above its start
        ([0.36, 0.05, 0.36, 0.05, 0.05, 0.05], False),  # or as good
        ([0.36, 0.10, 0.14, 0.18, 0.22, 0.26], False),  # 4 points an epoch, 13 epochs to go
        ([0.36, 0.05, 0.052, 0.054, 0.056, 0.058], True),  # 0.2 points an epoch
    ],
)
def test_stops_a_training_that_stays_below_its_start(values, stopped):
    assert bool(stops(values)) == stopped


def test_a_short_training_gets_three_epochs():
    assert not stops([0.36, 0.05, 0.05], epochs=5)
    assert stops([0.36, 0.05, 0.05, 0.05], epochs=5)


def test_the_reason_names_epoch_and_cause():
    result = stops([0.36, 0.05, 0.07, 0.06], epochs=5)
    assert result.startswith("stopped after epoch 3 of 5: map@r on the validation classes was 36.0% before the first")
    assert "at most 7.0% since" in result


def test_the_warm_up_does_not_count():
    values = [0.36, 0.3, 0.3, 0.05, 0.05]
    assert stops([*values], epochs=5, warm_up=0)
    assert not stops([*values], epochs=5, warm_up=2)


def test_stops_after_the_patience():
    values = [0.1, 0.3, 0.2, 0.2]
    assert not stops(values, patience=3, waited=2)
    assert "has not improved for 2 epochs" in stops(values, patience=2, waited=2)


@pytest.mark.parametrize("options", [{"keep_start": False}, {"epochs": 5}])
def test_nothing_stops_what_is_done_or_has_no_start_to_keep(options):
    assert not stops([0.36, 0.05, 0.05, 0.05, 0.05, 0.05], **options)


def test_without_validation_nothing_is_known():
    history = [{"epoch": epoch, "loss": 1.0} for epoch in range(9)]
    assert not reason_to_stop(history, monitor="map@r", epochs=18)
