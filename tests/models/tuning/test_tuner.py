"""The search: within its ranges, within its budget, past failures, repeatable, resumable."""

import itertools

import keras_tuner
import numpy as np
import pytest

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.tuning.oracles import ORACLES
from anchorage.tuning.ranges import Condition, Range
from anchorage.tuning.record import Interval, read_search
from anchorage.tuning.search import run_search
from anchorage.tuning.settings import TuningSettings
from anchorage.tuning.tuner import SearchTuner

SPACE = [
    Range("loss.params.margin", low=0.05, high=0.5),
    Range("training.optimizer.learning_rate", low=1e-4, high=1e-1, sampling="log"),
    Range("loss.params.proxies_per_class", low=1, high=4),
    Range("encoder.pooling", choices=("avg", "gem")),
    Range("encoder.frozen_norm", choices=(True, False)),
]
MARGIN = [Range("margin", low=0.0, high=1.0)]


class Trainer:
    """Best at margin 0.3 with GeM; keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, values, report):
        self.asked.append(values)
        return {"map@r": self.score(values), "recall@1": 0.5}

    def score(self, values):
        bonus = 0.1 if values.get("encoder.pooling") == "gem" else 0.0
        return 0.9 - abs(values["loss.params.margin"] - 0.3) + bonus


def search(train, folder, space=SPACE, seed=1, **options):
    settings = TuningSettings(**{"trials": 6, "repeats": 0, **options})
    return run_search(train, space, settings, seed=seed, folder=folder)


@pytest.mark.parametrize("oracle", ORACLES)
def test_stays_within_ranges_and_budget_and_finds_the_best_tried(tmp_path, oracle):
    train = Trainer()
    found = search(train, tmp_path, oracle=oracle)
    assert len(train.asked) == len(found.trials) == 6
    for values in train.asked:
        assert set(values) - {"training.epochs"} == {item.path for item in SPACE}
        assert 0.05 <= values["loss.params.margin"] <= 0.5
        assert 1e-4 <= values["training.optimizer.learning_rate"] <= 1e-1
        assert values["loss.params.proxies_per_class"] in (1, 2, 3, 4)
        assert values["encoder.pooling"] in ("avg", "gem")
        assert isinstance(values["encoder.frozen_norm"], bool)
    assert [trial.values for trial in found.trials] == train.asked
    assert found.best_trial.values == max(train.asked, key=train.score)
    assert found.best_trial.score == train.score(found.best_trial.values)
    assert found.best_trial.metrics == {"recall@1": 0.5}
    assert found.stop_reason == "trials"
    assert read_search(tmp_path / "search.json") == found


@pytest.mark.parametrize("oracle", ORACLES)
def test_two_searches_with_the_same_seed_try_the_same_values(tmp_path, oracle):
    first, second = Trainer(), Trainer()
    search(first, tmp_path / "1", seed=0, oracle=oracle)
    search(second, tmp_path / "2", seed=0, oracle=oracle)
    assert first.asked == second.asked
    if oracle not in ("coordinate", "grid"):  # which have no randomness
        other = Trainer()
        search(other, tmp_path / "3", seed=1, oracle=oracle)
        assert first.asked != other.asked


@pytest.mark.parametrize("oracle", ORACLES)
def test_an_interrupted_search_goes_on_without_repeating_a_trial(tmp_path, oracle):
    undisturbed, train = Trainer(), Trainer()
    whole = search(undisturbed, tmp_path / "undisturbed", oracle=oracle)

    def interrupted(values, report):
        if len(train.asked) == 4:
            raise ResourceError("E_INTERRUPTED", "stopped by a signal")
        return train(values, report)

    with pytest.raises(ResourceError, match="E_INTERRUPTED: stopped by a signal"):
        search(interrupted, tmp_path / "cut", oracle=oracle)
    resumed = search(train, tmp_path / "cut", oracle=oracle)
    assert train.asked == undisturbed.asked
    assert [trial.values for trial in resumed.trials] == [trial.values for trial in whole.trials]
    search(train, tmp_path / "cut", oracle=oracle)
    assert len(train.asked) == 6


def test_the_grid_tries_all_points(tmp_path):
    space = [Range("a", low=1, high=3), Range("b", low=0.1, high=10.0, sampling="log", step=10)]
    found = search(lambda values, report: {"map@r": values["a"]}, tmp_path, space, oracle="grid", trials=100)
    points = {(trial.values["a"], round(trial.values["b"], 9)) for trial in found.trials}
    assert points == set(itertools.product((1, 2, 3), (0.1, 1.0, 10.0)))
    assert len(found.trials) == 9
    assert found.stop_reason == "space"


def test_hyperband_grants_its_epochs_and_goes_on_with_the_best(tmp_path):
    asked = []

    def train(values, report):
        asked.append(values)
        return {"map@r": values["margin"]}

    found = search(train, tmp_path, MARGIN, oracle="hyperband", epochs=9, trials=100, params={"factor": 3})
    # Li et al., JMLR 2018, section 3: brackets of 9, 3 and 1 epochs at first, with the best third going on
    first = [values for values in asked if values["training.epochs"] == 1]
    second = [values for values in asked if values["training.epochs"] == 3]
    assert len(first) == 9
    assert {values["margin"] for values in second[:3]} == set(sorted(values["margin"] for values in first)[-3:])
    assert max(values["training.epochs"] for values in asked) == 9
    assert found.stop_reason == "space"
    assert all(set(trial.values) == {"margin", "training.epochs"} for trial in found.trials)


def test_the_coordinate_search_starts_in_the_middle_and_takes_parameters(tmp_path):
    def train(values, report):
        return {"map@r": values["margin"]}

    params = {"points": 3, "max_cycles": 1}
    found = search(train, tmp_path, MARGIN, oracle="coordinate", params=params)
    assert [trial.values["margin"] for trial in found.trials] == [0.5, 0.0, 1.0]
    assert found.stop_reason == "max_cycles"


CONDITIONAL = [
    Range("loss", choices=("nca", "triplet")),
    Range("loss.choices.0.params.scale", low=1.0, high=64.0, sampling="log", condition=Condition("loss", "nca")),
    Range("loss.choices.1.params.margin", low=0.0, high=1.0, condition=Condition("loss", "triplet")),
]


@pytest.mark.parametrize("oracle", ORACLES)
def test_values_of_a_choice_come_with_it_only(tmp_path, oracle):
    asked = []

    def train(values, report):
        asked.append(set(values) - {"training.epochs"})
        return {"map@r": float(values["loss"] == "nca") + values.get("loss.choices.0.params.scale", 0) / 100}

    search(train, tmp_path, CONDITIONAL, oracle=oracle, trials=12)
    for names in asked:
        assert names in ({"loss", "loss.choices.0.params.scale"}, {"loss", "loss.choices.1.params.margin"})
    assert len(set(map(frozenset, asked))) == 2


def test_a_failed_trial_is_marked_and_the_others_go_on(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    train = Trainer()

    def unlucky(values, report):
        metrics = train(values, report)
        if len(train.asked) == 2:
            raise DataError("E_LOSS_NOT_FINITE", "the loss became nan")
        if len(train.asked) == 3:
            raise RuntimeError("first line\nsecond line")
        if len(train.asked) == 4:
            raise SystemExit(0)
        if len(train.asked) == 5:
            return {"map@r": float("nan")}
        return metrics

    found = search(unlucky, tmp_path)
    assert [trial.state for trial in found.trials] == ["completed", *["failed"] * 4, "completed"]
    reasons = [trial.reason for trial in found.trials]
    assert reasons[0] == ""
    assert reasons[1] == "E_LOSS_NOT_FINITE: the loss became nan"
    assert reasons[2].startswith("E_USER_CODE: first line second line (RuntimeError in ")
    assert reasons[3].startswith("E_USER_CODE: it calls sys.exit(0)")
    assert reasons[4] == "its map@r is not a number"
    assert [trial.score for trial in found.trials[1:5]] == [None] * 4
    shown, errors = capsys.readouterr()
    assert errors == ""
    assert "\nfailed: E_USER_CODE: first line second line (RuntimeError in " in shown
    assert "Traceback" not in shown
    assert 'raise RuntimeError("first line' in caplog.text


def test_nothing_but_failures_is_an_error(tmp_path):
    def fails(values, report):
        raise ValueError("`margin` must be positive")

    with pytest.raises(UsageError, match=r"E_TUNER_FAILED: .* All 6 failed: .*`margin` must be positive"):
        search(fails, tmp_path)


def test_an_unpromising_trial_stops_early_unless_it_is_the_oracle_that_compares(tmp_path):
    def train(values, report):
        for epoch in range(1, 5):
            report(100 * epoch, values["margin"] * epoch / 4)
        return {"map@r": values["margin"], "recall@1": 1.0}

    found = search(train, tmp_path / "1", MARGIN, trials=20)
    stopped = [trial for trial in found.trials if trial.state == "stopped"]
    assert stopped
    for trial in stopped:
        peers = [other for other in found.trials[: trial.number] if other.state == "completed"]
        assert len(peers) >= 3
        assert len(trial.curve) == 1
        assert trial.score == trial.values["margin"] / 4
        assert trial.score < sorted(peer.curve[0] for peer in peers)[len(peers) // 2]
        assert "is below" in trial.reason
        assert trial.samples_seen == 100
    completed = next(trial for trial in found.trials if trial.state == "completed")
    assert completed.samples == (100, 200, 300, 400)
    assert completed.curve == pytest.approx([completed.values["margin"] * share for share in (0.25, 0.5, 0.75, 1)])
    for options in ({"stop_early": False}, {"oracle": "hyperband"}):
        patient = search(train, tmp_path / str(options), MARGIN, **{"trials": 20, **options})
        assert {trial.state for trial in patient.trials} == {"completed"}


def test_a_stopped_trial_does_not_win_for_an_easy_fold(tmp_path):
    def train(values, report):
        report(100, 0.5 + values["margin"] / 4)  # of the first fold, and then the mean over both
        report(200, values["margin"] / 4)
        return {"map@r": values["margin"] / 4}

    found = search(train, tmp_path, MARGIN, trials=20, folds=2)
    stopped = [trial for trial in found.trials if trial.state == "stopped"]
    completed = [trial for trial in found.trials if trial.state == "completed"]
    assert stopped
    for trial in stopped:
        peers = [peer.score for peer in completed if peer.number < trial.number]
        assert trial.curve[0] > max(peers)
        assert trial.score == pytest.approx(np.median(peers))
    assert found.best_trial == max(completed, key=lambda trial: trial.values["margin"])
    assert found.folds == 2


def test_the_time_is_a_budget_that_recorded_trials_have_used(tmp_path, monkeypatch):
    clock = [1e9]
    monkeypatch.setattr("anchorage.tuning.tuner.time.time", lambda: clock[0])
    asked = []

    def train(values, report):
        asked.append(values)
        clock[0] += 25
        return {"map@r": values["margin"]}

    found = search(train, tmp_path, MARGIN, minutes=1, trials=100)
    assert len(found.trials) == 3  # started after 0, 25 and 50 seconds
    assert found.stop_reason == "minutes"
    assert [trial.seconds for trial in found.trials] == [25, 25, 25]
    clock[0] += 3600
    again = search(train, tmp_path, MARGIN, minutes=1, trials=100)
    assert again == found
    assert len(asked) == 3
    longer = search(train, tmp_path, MARGIN, minutes=2, trials=100)
    assert len(longer.trials) == 5
    assert len(asked) == 5


def test_the_winner_is_trained_again_with_new_seeds(tmp_path):
    train, seeds = Trainer(), []

    def seeded(values, report):
        if "seed" not in values:
            return train(values, report)
        seeds.append(values.pop("seed"))
        assert values == max(train.asked, key=train.score)
        return {"map@r": {2: 0.5, 3: 0.7, 4: 0.6}[seeds[-1]]}

    found = search(seeded, tmp_path, repeats=3)
    assert seeds == [2, 3, 4]
    assert [(repeat.seed, repeat.score) for repeat in found.repeats] == [(2, 0.5), (3, 0.7), (4, 0.6)]
    assert found.interval.mean == pytest.approx(0.6)
    # Student's t with two degrees of freedom: 4.303; the standard error is 0.1 / sqrt(3)
    assert found.interval.high - found.interval.mean == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert found.interval.mean - found.interval.low == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    search(seeded, tmp_path, repeats=3)
    assert seeds == [2, 3, 4]
    single = search(seeded, tmp_path / "one", repeats=1)
    assert (single.interval.mean, single.interval.low, single.interval.high) == (0.5, None, None)
    # With one degree of freedom 12.7 standard errors of 0.1: -0.67 to 1.87, which no score can be.
    both = search(seeded, tmp_path / "two", repeats=2)
    assert both.interval == Interval(pytest.approx(0.6), 0.0, 1.0, 0.95)


def test_the_record_has_the_steps_of_the_winner(tmp_path):
    def train(values, report):
        return {"map@r": values["margin"]}

    def steps(values):
        return {"training.steps_per_epoch": round(100 * values["margin"])}

    found = run_search(train, MARGIN, TuningSettings(trials=3, repeats=0), seed=1, folder=tmp_path, steps=steps)
    assert found.steps == steps(max((trial.values for trial in found.trials), key=lambda values: values["margin"]))
    assert read_search(tmp_path / "search.json") == found


def test_the_logs_are_those_of_this_search_once(tmp_path):
    logs = tmp_path / "logs"
    (logs / "other").mkdir(parents=True)
    for trials in (3, 3, 2):
        settings = TuningSettings(trials=trials, repeats=0)
        run_search(Trainer(), SPACE, settings, seed=1, folder=tmp_path / "search", log_folder=logs)
        assert sorted(run.name for run in logs.glob("trial-*")) == [f"trial-{number:03d}" for number in range(trials)]
        assert all(len(list(run.iterdir())) == 1 for run in logs.glob("trial-*"))
    assert (logs / "other").is_dir()


def test_a_small_space_ends_the_search_early(tmp_path):
    train = Trainer()
    found = search(train, tmp_path, [Range("loss.params.margin", choices=(0.1, 0.2))])
    assert sorted(values["loss.params.margin"] for values in train.asked) == [0.1, 0.2]
    assert found.stop_reason == "space"


def test_is_a_tuner_of_keras_tuner(tmp_path):
    tuner = SearchTuner(Trainer(), SPACE, TuningSettings(trials=3, repeats=0), seed=0, folder=tmp_path)
    assert isinstance(tuner, keras_tuner.Tuner)
    tuner.search(verbose=0)
    [best] = tuner.get_best_hyperparameters()
    assert best.values == tuner.result.best_trial.values


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN: Unknown name 'sobol'\. Known: \['bayesian', 'coordinate'"):
        search(Trainer(), tmp_path, oracle="sobol")
    with pytest.raises(UsageError, match="E_TUNER_SPACE: Expected at least one range"):
        search(Trainer(), tmp_path, [])
    with pytest.raises(UsageError, match="E_PARAMETER_UNKNOWN: 'random' takes"):
        search(Trainer(), tmp_path, params={"points": 3})
    with pytest.raises(ValueError, match="`points` must be at least 2"):
        search(Trainer(), tmp_path, oracle="coordinate", params={"points": 1})
    with pytest.raises(UsageError, match="E_TUNER_SPACE: `margin` needs choices of one kind"):
        search(Trainer(), tmp_path, [Range("margin", choices=(1, "two"))])
