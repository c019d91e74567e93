import pytest
from searches import record, trial

from anchorage.judging.searched import describe_search, write_lines


def test_the_winner_as_lines_of_a_file():
    assert describe_search(record())["lines"] == [
        'loss.name = "triplet"',
        "loss.params.margin = 0.25",
        "training.optimizer.learning_rate = 0.001",
    ]
    assert describe_search(record(best=None))["lines"] == []


def test_the_lines_have_the_steps_and_only_what_was_a_range():
    search = {**record(), "steps": {"training.steps_per_epoch": 24}}
    search["trials"][1]["values"]["training.epochs"] = 3  # granted by Hyperband
    lines = describe_search(search)["lines"]
    assert lines[-2:] == ["training.optimizer.learning_rate = 0.001", "training.steps_per_epoch = 24"]
    assert not [line for line in lines if "epochs" in line]


def test_values_of_the_oracle_are_no_lines():
    assert write_lines({"a": True, "b": 1.0, "tuner/epochs": 3}) == ["a = true", "b = 1.0"]


def test_names_are_brief_but_not_alike():
    search = record()
    assert [each["name"] for each in describe_search(search)["settings"]] == ["loss", "margin", "learning_rate"]
    condition = {"path": "loss", "value": "nca"}
    search["space"].append({**search["space"][1], "path": "loss.choices.0.params.margin", "condition": condition})
    search["space"].append({**search["space"][2], "path": "training.methods.0.params.margin"})
    names = [each["name"] for each in describe_search(search)["settings"]]
    assert names == ["loss", "margin of triplet", "learning_rate", "margin of nca", "training.methods.0.margin"]


def test_epochs_are_a_setting_where_they_differ():
    search = record()
    search["trials"][0]["values"]["training.epochs"] = 3
    assert describe_search(search)["settings"][-1] == {"path": "training.epochs", "name": "epochs"}


def test_progress_leaves_out_interruptions_and_counts_parallel_trials_once():
    trials = [
        trial(0, None, state="failed", started=0.0, seconds=60.0),
        trial(1, 0.3, started=30.0, seconds=60.0),  # beside the first, until 90
        trial(2, 0.2, started=1000.0, seconds=30.0),
    ]
    progress = describe_search(record(trials))["progress"]
    assert [row["number"] for row in progress] == [0, 1, 2]
    assert [row["minutes"] for row in progress] == pytest.approx([1.0, 1.5, 2.0])
    assert [row["best"] for row in progress] == [None, 0.3, 0.3]
