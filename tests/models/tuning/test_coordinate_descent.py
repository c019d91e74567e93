"""The coordinate search: its published sequences of trials, and its properties."""

import itertools
import json
import math
from pathlib import Path

import keras_tuner
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.tuning.coordinate_descent import CoordinateDescentOracle

VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "19-balance-contrastive.json"
CASES = {case["name"]: case for case in json.loads(VECTORS.read_text()) if case["name"].startswith("search_")}
OBJECTIVES = {
    "search_two_floats": lambda values: (
        (math.log10(values["lambda"]) - 0.45) ** 2
        + 2 * (values["margin"] - 0.3) ** 2
        + 0.5 * math.log10(values["lambda"]) * values["margin"]
    ),
    "search_float_and_choice_max": lambda values: (
        70 - 3 * (math.log10(values["lambda"]) + 0.4) ** 2 - abs(math.log2(values["batch_size"] / 140))
    ),
}


class Search:
    """Asks an oracle for trials and answers with the scores of a function; None is a failure."""

    def __init__(self, oracle, score, folder):
        oracle._set_project_dir(str(folder), "search")
        oracle.verbose = 0
        self.oracle, self.score, self.trials = oracle, score, []

    def start(self, worker="tuner0"):
        return self.oracle.create_trial(worker)

    def end(self, trial):
        values = dict(trial.hyperparameters.values)
        score = self.score(values)
        if score is not None:
            self.oracle.update_trial(trial.trial_id, {"score": score})
        trial.status = "FAILED" if score is None else "COMPLETED"
        self.oracle.end_trial(trial)
        self.trials.append((values, score))

    def run(self, most=10_000):
        for _ in range(most):
            trial = self.start()
            if trial.status == "STOPPED":
                break
            self.end(trial)
        return self.trials


def space(*ranges):
    parameters = keras_tuner.HyperParameters()
    for item in ranges:
        if item["kind"] == "choice":
            parameters.Choice(item["name"], item["values"], default=item["default"])
        else:
            parameters.Float(item["name"], item["lo"], item["hi"], sampling=item["sampling"], default=item["default"])
    return parameters


def unit(*names, default=0.5):
    return space(
        *(
            {"kind": "float", "name": name, "lo": 0.0, "hi": 1.0, "sampling": "linear", "default": default}
            for name in names
        )
    )


def oracle(parameters, direction="max", **options):
    options = {"max_trials": 1000, "allow_new_entries": False, "max_consecutive_failed_trials": 1000, **options}
    return CoordinateDescentOracle(
        objective=keras_tuner.Objective("score", direction), hyperparameters=parameters, **options
    )


def case_oracle(case, **options):
    params = {**case["params"], **options}
    return oracle(space(*case["inputs"]["space"]), **params)


@pytest.mark.parametrize("name", CASES)
def test_trials_follow_the_published_sequence(tmp_path, name):
    case, expected = CASES[name], CASES[name]["expected"]
    searched = case_oracle(case)
    trials = Search(searched, OBJECTIVES[name], tmp_path).run()
    assert len(trials) == expected["n_trials"] == len(expected["trials"])
    for (values, score), trial in zip(trials, expected["trials"], strict=True):
        assert values == pytest.approx(trial["values"], rel=1e-12)
        assert score == pytest.approx(trial["score"], rel=1e-9)
    assert searched.stop_reason == expected["stop_reason"]
    [best] = searched.get_best_trials()
    assert best.hyperparameters.values == pytest.approx(expected["best_values"], rel=1e-12)


def test_no_randomness_and_no_more_than_the_budget(tmp_path):
    case, score = CASES["search_two_floats"], OBJECTIVES["search_two_floats"]
    first = Search(case_oracle(case, seed=1), score, tmp_path / "1").run()
    second = Search(case_oracle(case, seed=2), score, tmp_path / "2").run()
    short = Search(case_oracle(case, max_trials=11), score, tmp_path / "3").run()
    assert first == second
    assert short == first[:11]


@pytest.mark.parametrize("interrupted_after", [0, 1, 4, 5, 9, 20, 26])
@pytest.mark.parametrize("inside_a_trial", [False, True])
def test_resumes_with_the_same_rest(tmp_path, interrupted_after, inside_a_trial):
    case, score = CASES["search_two_floats"], OBJECTIVES["search_two_floats"]
    whole = Search(case_oracle(case), score, tmp_path / "whole").run()
    first = Search(case_oracle(case), score, tmp_path / "cut")
    first.run(interrupted_after)
    if inside_a_trial and interrupted_after < len(whole):
        first.start()
    first.oracle.save()
    resumed = case_oracle(case)
    second = Search(resumed, score, tmp_path / "cut")
    resumed.reload()
    assert [*first.trials, *second.run()] == whole
    assert resumed.stop_reason == "max_cycles"


@given(
    st.lists(st.floats(-1, 2), min_size=1, max_size=3),
    st.integers(2, 6),
    st.integers(1, 4),
    st.sampled_from(["min", "max"]),
    st.randoms(use_true_random=False),
)
def test_no_search_tries_a_configuration_twice(tmp_path_factory, optimum, points, max_cycles, direction, random):
    names = [f"x{place}" for place in range(len(optimum))]
    sign = 1 if direction == "min" else -1

    def score(values):
        # A coarse grid of scores with many ties, and failures.
        distance = sum(abs(values[name] - best) for name, best in zip(names, optimum, strict=True))
        return None if random.random() < 0.1 else sign * round(distance, 1)

    searched = oracle(unit(*names), direction, points=points, max_cycles=max_cycles)
    trials = Search(searched, score, tmp_path_factory.mktemp("search")).run()
    assert searched.stop_reason in ("converged", "max_cycles")
    configurations = {tuple(round(value, 9) for value in values.values()) for values, _ in trials}
    assert len(configurations) == len(trials)
    assert all(0 <= value <= 1 for values, _ in trials for value in values.values())


def test_the_incumbent_improves_by_one_coordinate_at_a_time(tmp_path):
    searched = oracle(unit("x", "y", "z"), "min", points=5)
    search = Search(searched, lambda values: float(np.square(np.subtract([*values.values()], 0.37)).sum()), tmp_path)
    path = []
    while (trial := search.start()).status == "RUNNING":
        if not path or searched._incumbent != path[-1]:
            path.append(searched._incumbent)
        search.end(trial)
    scores = [search.score(values) for values in path]
    assert scores == sorted(scores, reverse=True)
    assert len(path) > 3
    for before, after in itertools.pairwise(path):
        assert sum(before[name] != after[name] for name in before) == 1


def test_a_separable_objective_is_solved_on_its_grid_by_the_first_cycle(tmp_path):
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]

    def score(values):
        return -abs(values["x"] - 0.8) - (values["y"] - 0.1) ** 2 - 3 * abs(values["z"] - 0.3)

    trials = Search(oracle(unit("x", "y", "z"), max_cycles=1), score, tmp_path).run()
    best = max(itertools.product(grid, repeat=3), key=lambda point: score(dict(zip("xyz", point, strict=True))))
    assert max(trials, key=lambda trial: trial[1])[0] == dict(zip("xyz", best, strict=True))
    assert len(trials) == 1 + 3 * 4  # the center, then four new values each


def test_ties_keep_the_incumbent_and_then_the_first(tmp_path):
    flat = oracle(unit("x", "y"), max_cycles=1)
    Search(flat, lambda values: 1.0, tmp_path / "flat").run()
    assert flat._incumbent == {"x": 0.5, "y": 0.5}
    symmetric = oracle(unit("x"), max_cycles=1)
    Search(symmetric, lambda values: abs(values["x"] - 0.5), tmp_path / "symmetric").run()
    assert symmetric._incumbent == {"x": 0.0}
    reluctant = oracle(unit("x"), max_cycles=1, min_delta=0.5)
    Search(reluctant, lambda values: abs(values["x"] - 0.5), tmp_path / "reluctant").run()
    assert reluctant._incumbent == {"x": 0.5}


def test_a_failed_trial_is_the_worst(tmp_path):
    searched = oracle(unit("x", default=0.0), max_cycles=1)
    Search(searched, lambda values: None if values["x"] in (0.0, 0.75, 1.0) else values["x"], tmp_path).run()
    assert searched._incumbent == {"x": 0.5}
    hopeless = oracle(unit("x"), max_cycles=1)
    Search(hopeless, lambda values: None, tmp_path / "hopeless").run()
    assert hopeless._incumbent == {"x": 0.5}


def test_a_retried_trial_is_not_queued_twice(tmp_path):
    searched = oracle(unit("x"), max_cycles=1, max_retries_per_trial=1)
    search, asked = Search(searched, lambda values: values["x"], tmp_path), []
    while (trial := search.start()).status == "RUNNING":
        asked.append(trial.hyperparameters.values["x"])
        if asked.count(0.75) == 1 and asked[-1] == 0.75:
            trial.status = "INVALID"
            searched.end_trial(trial)
        else:
            search.end(trial)
    assert asked == [0.5, 0.0, 0.25, 0.75, 0.75, 1.0]


def conditional():
    parameters = keras_tuner.HyperParameters()
    parameters.Choice("loss", ["contrastive", "multi_similarity"])
    parameters.Float("margin", 0.0, 1.0, default=0.5, parent_name="loss", parent_values=["contrastive"])
    parameters.Float("base", 0.0, 1.0, default=0.5, parent_name="loss", parent_values=["multi_similarity"])
    return parameters


def test_only_active_hyperparameters_are_searched(tmp_path):
    def score(values):
        assert set(values) == {"loss", "margin" if values["loss"] == "contrastive" else "base"}
        return 1.0 + values["base"] if "base" in values else values["margin"] / 2

    searched = oracle(conditional(), max_cycles=1)
    trials = [values for values, _ in Search(searched, score, tmp_path).run()]
    assert trials == [
        {"loss": "contrastive", "margin": 0.5},
        {"loss": "multi_similarity", "base": 0.5},
        *({"loss": "multi_similarity", "base": base} for base in (0.0, 0.25, 0.75, 1.0)),
    ]
    assert searched._incumbent == {"loss": "multi_similarity", "base": 1.0}


def test_hyperparameters_that_a_trial_registers_are_searched_from_the_next_cycle_on(tmp_path):
    class Tuner(keras_tuner.Tuner):
        def run_trial(self, trial):
            x = trial.hyperparameters.Float("x", 0.0, 1.0, default=0.5)
            y = trial.hyperparameters.Float("y", 0.0, 1.0, default=0.5) if x > 0.5 else 0.0
            asked.append((x, y))
            return {"score": x + y}

    asked: list[tuple[float, float]] = []
    searched = oracle(keras_tuner.HyperParameters(), points=3, max_cycles=3, allow_new_entries=True)
    Tuner(oracle=searched, directory=str(tmp_path), project_name="new").search()
    # The share of the scale around the incumbent is the half in the second cycle and a quarter in the third.
    assert asked == [(0.5, 0.0), (0.25, 0.0), (0.75, 0.5), (0.625, 0.5), (0.875, 0.5), (0.875, 0.375), (0.875, 0.625)]
    assert searched._incumbent == {"x": 0.875, "y": 0.625}
    assert searched.stop_reason == "max_cycles"


def test_the_order_can_be_chosen(tmp_path):
    case = CASES["search_two_floats"]
    searched = case_oracle(case, order=["margin"])
    trials = [values for values, _ in Search(searched, OBJECTIVES["search_two_floats"], tmp_path).run(9)]
    assert [values["lambda"] for values in trials[:5]] == [1.0] * 5
    assert len({values["margin"] for values in trials[5:]}) == 1
    with pytest.raises(ValueError, match=r"`order` must name hyperparameters of the space\. Received: \['tau'\]"):
        case_oracle(case, order=["tau"])


def test_steps_and_integers_are_kept(tmp_path):
    parameters = keras_tuner.HyperParameters()
    parameters.Int("classes", 4, 8, default=4)
    parameters.Float("scale", 1.0, 64.0, step=4, sampling="log", default=4.0)
    parameters.Int("images", 2, 1000, sampling="log", default=2)
    parameters.Boolean("normalize")
    trials = [values for values, _ in Search(oracle(parameters), lambda values: -values["scale"], tmp_path).run()]
    assert {values["classes"] for values in trials} == {4, 5, 6, 7, 8}
    assert {values["scale"] for values in trials} == {1.0, 4.0, 16.0, 64.0}
    assert {2, 9, 45, 211, 1000} <= {values["images"] for values in trials}  # 2 * 500 ** (0, 1/4, 1/2, 3/4, 1)
    assert {values["normalize"] for values in trials} == {False, True}
    assert len({tuple(values.values()) for values in trials}) == len(trials)


def test_the_trials_of_one_hyperparameter_run_side_by_side(tmp_path):
    case, score = CASES["search_two_floats"], OBJECTIVES["search_two_floats"]
    sequential = Search(case_oracle(case), score, tmp_path / "1").run()
    search = Search(case_oracle(case), score, tmp_path / "2")
    first = search.start("a")
    assert search.start("b").status == "IDLE"
    search.end(first)
    while True:
        trials = [search.start(worker) for worker in "abcd"]
        for trial in reversed(trials):
            if trial.status == "RUNNING":
                search.end(trial)
        if all(trial.status == "STOPPED" for trial in trials):
            break
    assert sorted(map(str, search.trials)) == sorted(map(str, sequential))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 1}, "`points` must be at least 2"),
        ({"max_cycles": 0}, "`max_cycles` at least 1"),
        ({"shrink": 0.0}, "`shrink` and `min_span` must be in"),
        ({"min_span": 1.5}, "Received: shrink=0.5, min_span=1.5"),
        ({"min_delta": -0.1}, "`min_delta` at least 0"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        oracle(unit("x"), **options)
