"""The search: within its ranges, within its budget, past failures, repeatable."""

import keras_tuner
import pytest

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.tuning.hypermodel import create_tuner

SPACE = {
    "loss.params.margin": {"low": 0.05, "high": 0.5, "log": False},
    "training.optimizer.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "loss.params.proxies_per_class": {"low": 1, "high": 4},
    "encoder.pooling": {"choices": ["avg", "gem"]},
}


class Trainer:
    """Best at margin 0.3 with GeM; keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, values):
        self.asked.append(values)
        bonus = 0.1 if values.get("encoder.pooling") == "gem" else 0.0
        return {"map@r": 0.9 - abs(values["loss.params.margin"] - 0.3) + bonus, "recall@1": 0.5}


def search(train, folder, space=None, **options):
    options = {"trials": 6, "seed": 1, **options}
    tuner = create_tuner(train, space or SPACE, directory=folder, **options)
    tuner.search(verbose=0)
    return tuner


@pytest.mark.parametrize("oracle", ["random", "bayesian"])
def test_stays_within_ranges_and_budget_and_finds_the_best_tried(tmp_path, oracle):
    train = Trainer()
    tuner = search(train, tmp_path, oracle=oracle)
    assert isinstance(tuner, keras_tuner.Tuner)
    assert len(train.asked) == 6
    for values in train.asked:
        assert set(values) == set(SPACE)
        assert 0.05 <= values["loss.params.margin"] <= 0.5
        assert 1e-4 <= values["training.optimizer.learning_rate"] <= 1e-1
        assert values["loss.params.proxies_per_class"] in (1, 2, 3, 4)
        assert values["encoder.pooling"] in ("avg", "gem")
    best = max(list(train.asked), key=lambda values: train(values)["map@r"])
    assert tuner.get_best_hyperparameters()[0].values == best


def test_the_seed_repeats_the_search(tmp_path):
    first, second, other = Trainer(), Trainer(), Trainer()
    search(first, tmp_path / "1", seed=0)
    search(second, tmp_path / "2", seed=0)
    search(other, tmp_path / "3", seed=1)
    assert first.asked == second.asked != other.asked


def test_a_failed_trial_is_marked_and_the_others_go_on(tmp_path):
    train = Trainer()

    def unlucky(values):
        metrics = train(values)
        if len(train.asked) in (2, 3, 4, 5):
            raise DataError("E_LOSS_NOT_FINITE", "the loss became nan")
        return metrics

    tuner = search(unlucky, tmp_path)
    trials = [tuner.oracle.trials[name] for name in tuner.oracle.end_order]
    assert [trial.status for trial in trials] == ["COMPLETED", *["FAILED"] * 4, "COMPLETED"]
    assert "E_LOSS_NOT_FINITE: the loss became nan" in trials[1].message
    assert trials[0].metrics.get_best_value("recall@1") == 0.5


def test_a_failed_trial_is_one_line_on_the_terminal_and_a_traceback_in_the_log(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    train = Trainer()

    def unlucky(values):
        if len(train.asked) == 1:
            train.asked.append(values)
            raise RuntimeError("first line\nsecond line")
        return train(values)

    tuner = create_tuner(unlucky, SPACE, directory=tmp_path, trials=3, seed=1)
    tuner.search()
    tuner.results_summary()
    shown, errors = capsys.readouterr()
    assert errors == ""
    assert "\nfailed: E_USER_CODE: first line second line (RuntimeError in " in shown
    assert "Traceback" not in shown
    assert 'raise RuntimeError("first line' in caplog.text


def test_a_trial_that_calls_exit_is_a_failed_one(tmp_path):
    train = Trainer()

    def exits(values):
        if len(train.asked) == 0:
            train.asked.append(values)
            raise SystemExit(0)
        return train(values)

    trials = search(exits, tmp_path).oracle.trials.values()
    assert [trial.status for trial in trials] == ["FAILED", *["COMPLETED"] * 5]


def test_nothing_but_failures_is_an_error(tmp_path):
    def fails(values):
        raise ValueError("`margin` must be positive")

    with pytest.raises(UsageError, match=r"E_TUNER_FAILED: .* All 6 failed: .*`margin` must be positive"):
        search(fails, tmp_path)


def test_an_interrupted_search_goes_on(tmp_path):
    undisturbed, train = Trainer(), Trainer()
    search(undisturbed, tmp_path / "undisturbed")

    def interrupted(values):
        if len(train.asked) == 3:
            raise ResourceError("E_INTERRUPTED", "told to stop")
        return train(values)

    with pytest.raises(ResourceError, match="E_INTERRUPTED: told to stop"):
        search(interrupted, tmp_path / "cut")
    assert len(train.asked) == 3
    search(train, tmp_path / "cut")
    assert len(train.asked) == 6
    assert train.asked[:3] == undisturbed.asked[:3]


def test_a_small_space_ends_the_search_early(tmp_path):
    train = Trainer()
    search(train, tmp_path, {"loss.params.margin": {"choices": [0.1, 0.2]}})
    assert sorted(values["loss.params.margin"] for values in train.asked) == [0.1, 0.2]


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN: Unknown oracle 'grid'\. Known: \['bayesian', 'random'\]"):
        search(Trainer(), tmp_path, oracle="grid")
    with pytest.raises(UsageError, match="E_TUNER_SPACE: `margin` needs `low` and `high`, or `choices`"):
        search(Trainer(), tmp_path, {"margin": {"low": 1}})
    with pytest.raises(UsageError, match="E_TUNER_SPACE: Expected at least one range"):
        create_tuner(Trainer(), {}, trials=1, seed=0, directory=tmp_path)
