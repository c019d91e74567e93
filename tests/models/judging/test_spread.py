import pytest

from anchorage.judging.spread import format_spread

METRICS = {
    "recall@1": {"mean": 0.89, "deviation": 0.003, "lowest": 0.886, "highest": 0.894},
    "map@r": {"mean": 0.469, "deviation": 0.004, "lowest": 0.464, "highest": 0.475},
    "map": {"mean": 0.1, "deviation": 0.0, "lowest": 0.1, "highest": 0.1},
}
FIVE = {"metrics": METRICS, "seeds": [1, 2, 3, 4, 5], "machines": 1, "trainings": 5, "same_code": True}
BOTH = "MAP@R 46.9 ± 0.4 (46.4 to 47.5), recall@1 89.0 ± 0.3 (88.6 to 89.4)"


@pytest.mark.parametrize(
    ("spread", "primary", "expected"),
    [
        (FIVE, "map@r", f"{BOTH} over 5 seeds on 1 machine"),
        (FIVE, "recall@1", "recall@1 89.0 ± 0.3 (88.6 to 89.4) over 5 seeds on 1 machine"),
        ({**FIVE, "machines": 2, "trainings": 10}, "map@r", f"{BOTH} over 5 seeds on 2 machines, 10 trainings"),
        ({**FIVE, "same_code": False}, "map@r", f"{BOTH} over 5 seeds on 1 machine, measured with earlier code"),
    ],
)
def test_a_measured_spread_is_shown_in_percent(spread, primary, expected):
    assert format_spread(spread, primary, 1) == expected


@pytest.mark.parametrize("spread", [None, {}])
def test_a_spread_that_is_not_measured_is_noted(spread):
    unknown = "The spread over seeds is not measured: `anchorage spread FILE`"
    assert format_spread(spread, "map@r", 1) == f"One training, seed 1. {unknown}"
    assert format_spread(spread, "map@r", 0) == f"One training, seed 0. {unknown}"
    assert format_spread(spread, "map@r") == f"One training. {unknown}"
