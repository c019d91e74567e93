"""The record of a search: it is read as it was written, and a damaged one is reported."""

import pytest

from anchorage.errors import DataError
from anchorage.tuning.ranges import Condition, Range
from anchorage.tuning.record import Interval, Repeat, Search, Trial, read_search, write_search

SPACE = (
    Range("loss", choices=("contrastive", "multi_similarity")),
    Range("loss.choices.0.params.margin", low=0.05, high=0.5, condition=Condition("loss", "contrastive")),
)
TRIALS = (
    Trial(0, {"loss": "multi_similarity"}, "failed", "E_LOSS_NOT_FINITE: the loss became nan"),
    Trial(
        1,
        {"loss": "contrastive", "loss.choices.0.params.margin": 0.2},
        "completed",
        score=0.6,
        curve=(0.5, 0.6),
        samples=(128, 256),
        metrics={"recall@1": 0.8},
        seconds=1.5,
        started=1e9,
        worker="tuner0",
    ),
)
SEARCH = Search(
    oracle="random",
    objective="map@r",
    seed=3,
    max_trials=2,
    max_minutes=0.0,
    space=SPACE,
    trials=TRIALS,
    best=1,
    stop_reason="trials",
    repeats=(Repeat(4, 0.55), Repeat(5, 0.65)),
    interval=Interval(0.6, -0.04, 1.24, 0.95),
)


def test_what_is_written_is_read_again(tmp_path):
    write_search(SEARCH, tmp_path / "search.json")
    found = read_search(tmp_path / "search.json")
    assert found == SEARCH
    assert found.best_trial == TRIALS[1]
    assert [trial.samples_seen for trial in found.trials] == [0, 256]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"space": []}', '{"space": 3, "trials": [], "repeats": []}'])
def test_a_damaged_record_is_reported(tmp_path, text):
    path = tmp_path / "search.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"E_SEARCH_DAMAGED: .*search\.json"):
        read_search(path)
    with pytest.raises(DataError, match="E_SEARCH_DAMAGED"):
        read_search(tmp_path / "absent.json")
