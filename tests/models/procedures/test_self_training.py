"""Self-training: the published paths, its rules, a run that is killed and goes on."""

import numpy as np
import pyarrow.parquet as parquet
import pytest

from anchorage.errors import UsageError
from anchorage.procedures import procedure, run_training
from anchorage.procedures.self_training import SelfTraining, follow
from anchorage.training import run

FILE = "17-annotation-efficient"


def test_published_gist_path(case):
    found = case(FILE, "gist_greedy_path")
    scores = found["inputs"]["validation_score"]
    assert follow(scores.get, found["params"]["stages"], "gist") == found["expected"]["path"]


def test_published_rist_path(case):
    found = case(FILE, "rist_path")
    draws = iter(found["inputs"]["uniform_draws"])
    path = follow(
        lambda path: 0.0, found["params"]["stages"], "rist", lambda: "H" if next(draws) < 0.5 else "P", stop_after=0
    )
    assert path == found["expected"]["path"]


def test_gist_never_takes_the_worse():
    random, scores = np.random.default_rng(0), {}
    path = follow(lambda path: scores.setdefault(path, random.uniform()), 12, "gist")
    for length in range(1, 13):
        taken, other = path[:length], path[: length - 1] + ("H" if path[length - 1] == "P" else "P")
        assert scores[taken] >= scores[other]


def test_rist_is_fair():
    random = np.random.default_rng(1)
    path = follow(lambda path: 0.0, 1000, "rist", lambda: "H" if random.random() < 0.5 else "P")
    assert path.count("H") / 1000 == pytest.approx(0.5, abs=0.05)


def test_stops_without_gain_and_where_pseudo_labels_are_too_few():
    values = {"H": 0.5, "P": None, "HH": 0.4, "HP": 0.3, "HHH": 0.5, "HHP": 0.5}
    assert follow(values.get, 9, "gist", first=0.2, stop_after=2) == "HHH"
    assert follow({"P": None, "H": 0.1}.get, 1, "rist", lambda: "P") == "H"
    assert follow({"M": 0.1, "MM": 0.2}.get, 2, "mixture") == "MM"


@pytest.fixture
def arguments(settings):
    def make(**params):
        section = {"name": "self_training", "params": {"stages": 2, "labelled_share": 0.5, "threshold": 0.0, **params}}
        return {
            **settings(epochs=2, procedure=section, sampler={"name": "shuffled_batches", "params": {"batch_size": 4}}),
            "loss": {"name": "proxy_nca", "params": {"include_positive": True, "scale_x": 3.0, "scale_p": 3.0}},
        }

    return make


@pytest.mark.thorough
def test_a_killed_one_goes_on_and_its_labels_are_logged(store, validation_store, arguments, monkeypatch, tmp_path):
    settings = arguments(stop_after=0)
    straight = run_training(store, validation_store, **settings, log_folder=tmp_path / "logs")
    names, plain = [], procedure.Task.train

    def counting(self, name, **options):
        names.append(name)
        if len(names) == 4:
            raise KeyboardInterrupt
        return plain(self, name, **options)

    monkeypatch.setattr(procedure.Task, "train", counting)
    kept = {"checkpoint_folder": tmp_path / "checkpoints", "run_key": "a"}
    with pytest.raises(KeyboardInterrupt):
        run_training(store, validation_store, **settings, **kept)
    monkeypatch.setattr(procedure.Task, "train", plain)
    fits, fit = [], run.fit_learner
    monkeypatch.setattr(run, "fit_learner", lambda *a, **k: fits.append(fit(*a, **k)) or fits[-1])
    again = run_training(store, validation_store, **settings, **kept)
    assert names == ["stage-0-human", "stage-1-human", "stage-1-pseudo", "stage-2-human"]
    assert [result.resumed_step for result in fits] == [10, 10, 10, 0, 0]
    assert again.result.history == straight.result.history
    assert [row["stage"] for row in again.result.history] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert again.result.best_value == straight.result.best_value == max(r["val_map@r"] for r in again.result.history)
    for ours, theirs in zip(again.learner.get_weights(), straight.learner.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    table = parquet.read_table(tmp_path / "logs" / "labels-1.parquet").to_pydict()
    human = [name for name, source in zip(table["id"], table["source"], strict=True) if source == "human"]
    assert len(human) == 24
    assert all(name.split("/")[0] == label for name, label in list(zip(table["id"], table["label"], strict=True))[:24])
    assert set(table["source"][24:]) == {"pseudo:stage-0"}
    assert len(set(table["id"])) == len(table["id"])
    assert all(0 < confidence <= 1 for confidence in table["confidence"])
    pseudo = np.unique(table["label"][24:], return_counts=True)[1]
    assert pseudo.max() <= 3  # the median of the human labels of a class


def test_what_it_cannot_do_without(store, validation_store, arguments):
    with pytest.raises(UsageError, match="E_NO_VALIDATION"):
        run_training(store, None, **arguments())
    with pytest.raises(UsageError, match="E_NOTHING_UNLABELLED"):
        run_training(store, validation_store, **arguments(labelled_share=1.0))
    with pytest.raises(ValueError, match="`schedule` must be one of"):
        SelfTraining(schedule="best")
