"""Oracles, which propose the values of each trial; `ORACLES` maps the names of an experiment file to classes."""

from collections.abc import Sequence

import keras_tuner

from anchorage.errors import UsageError
from anchorage.registry import create
from anchorage.tuning.coordinate_descent import CoordinateDescentOracle
from anchorage.tuning.ranges import Range
from anchorage.tuning.settings import OBJECTIVE, TuningSettings

ORACLES: dict[str, type[keras_tuner.Oracle]] = {
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "coordinate": CoordinateDescentOracle,
    "grid": keras_tuner.oracles.GridSearchOracle,
    "hyperband": keras_tuner.oracles.HyperbandOracle,
    "random": keras_tuner.oracles.RandomSearchOracle,
}

EPOCHS = "tuner/epochs"  # the value in which Hyperband gives each trial its budget


def create_oracle(space: Sequence[Range], settings: TuningSettings, seed: int) -> keras_tuner.Oracle:
    """Create the oracle of its settings for the highest objective.

    Args:
        space: the ranges.
        settings: how to search; of them `oracle`, `params`, `trials` and `epochs`.
        seed: the same seed proposes the same values, as long as they get the same scores.

    Raises:
        UsageError: E_NAME_UNKNOWN, E_PARAMETER_UNKNOWN or E_PARAMETER_VALUE for the oracle, E_TUNER_SPACE for an empty
            or invalid space.
        ValueError: if the oracle rejects a parameter.
    """
    if not space:
        raise UsageError("E_TUNER_SPACE", "Expected at least one range to search. Received: none.")
    oracle = create(
        ORACLES,
        settings.oracle,
        settings.params,
        {
            "objective": keras_tuner.Objective(OBJECTIVE, "max"),
            "max_trials": settings.trials,
            "max_epochs": settings.epochs,
            "seed": seed + 1,  # Keras Tuner treats 0 as no seed
            "hyperparameters": create_hyperparameters(space, as_grid=settings.oracle == "grid"),
            "allow_new_entries": False,
            "max_consecutive_failed_trials": settings.trials + 1,  # successive failures do not end the search
        },
        base=keras_tuner.Oracle,
    )
    oracle.max_trials = settings.trials  # Hyperband has no such parameter
    return oracle


def stops_early(oracle: keras_tuner.Oracle) -> bool:
    """Whether trials under this oracle may be stopped; Hyperband compares those that ran for the same epochs."""
    return not isinstance(oracle, keras_tuner.oracles.HyperbandOracle)


def create_hyperparameters(space: Sequence[Range], *, as_grid: bool = False) -> keras_tuner.HyperParameters:
    """The ranges as hyperparameters of Keras Tuner, named by their paths.

    Args:
        space: the ranges.
        as_grid: whether intervals become lists of the values that `Range.grid` has.
    """
    parameters = keras_tuner.HyperParameters()
    for item in space:
        condition = item.condition
        options = {"parent_name": condition.path, "parent_values": [condition.value]} if condition else {}
        if item.choices is not None or as_grid:
            parameters.Choice(item.path, _of_one_kind(item), default=None if as_grid else item.default, **options)
            continue
        kind = parameters.Int if item.is_integer else parameters.Float
        low, high = item.ends
        kind(item.path, low, high, step=item.step, sampling=item.sampling, default=item.start, **options)
    return parameters


def _of_one_kind(item: Range) -> list:
    """The values of a range, integers and other numbers together as numbers."""
    values = list(item.grid())
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return [float(value) for value in values]
    if len(kinds) > 1:
        raise UsageError("E_TUNER_SPACE", f"`{item.path}` needs choices of one kind. Received: {values}")
    return values
