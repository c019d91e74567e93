"""Coordinate descent over hyperparameters, after Sors, Rezende, Ibrahimi & Andreoli, arXiv 2112.11743, 2021.

The paper's abstract says that the balance of a loss is found by coordinate descent on the evaluation; the steps,
defaults and stopping rules below are this project's.
"""

import json
from collections.abc import Sequence
from typing import Any

import keras_tuner
from keras_tuner.engine import hyperparameters as kinds

Values = dict[str, Any]


class CoordinateDescentOracle(keras_tuner.Oracle):
    """Searches one hyperparameter at a time around the best configuration so far, without any randomness.

    The first trial has the default of every hyperparameter and is the first incumbent. Cycle `c = 0, 1, ...` visits the
    active hyperparameters in order. Of each it tries `points` values, evenly spaced on its scale: over the whole range
    in the first cycle, later over a share `max(shrink ** c, min_span)` of it around the incumbent; of a choice all
    values. The best of them becomes the incumbent if it is better by more than `min_delta`. The search ends with a
    cycle of the smallest span in which nothing moved ("converged") or after `max_cycles`.

    Trials of one hyperparameter can run in parallel. A configuration is never tried twice; a failed trial counts as the
    worst. Hyperparameters that only some choice activates are searched while it is the incumbent.

    Args:
        objective: as in `keras_tuner.Oracle`; a single one.
        max_trials: largest number of trials.
        hyperparameters: the space.
        order: names in the order of the visits; others follow in order of their registration.
        points: values per visit of a numeric hyperparameter, at least 2; rounded to its step if it has one.
        shrink: factor on the span from cycle to cycle, in (0, 1].
        max_cycles: largest number of cycles.
        min_span: smallest span, a share of the scale, in (0, 1].
        min_delta: smallest improvement that moves the incumbent, at least 0.
        allow_new_entries: as in `keras_tuner.Oracle`, like the arguments below; new ones are searched from the next
            cycle on.
        tune_new_entries: see there.
        seed: has no effect, since nothing is random.
        max_retries_per_trial: see there.
        max_consecutive_failed_trials: see there.

    Attributes:
        stop_reason: `"converged"` or `"max_cycles"` once the search has ended; empty before.

    Raises:
        ValueError: if an argument is out of range, or `order` has a name that is not in a closed space.
    """

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        order: Sequence[str] = (),
        points: int = 5,
        shrink: float = 0.5,
        max_cycles: int = 4,
        min_span: float = 0.125,
        min_delta: float = 0.0,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        seed: int | None = None,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
    ):
        if points < 2 or max_cycles < 1:
            raise ValueError(
                f"`points` must be at least 2 and `max_cycles` at least 1. Received: {points=}, {max_cycles=}"
            )
        if not (0 < shrink <= 1 and 0 < min_span <= 1 and min_delta >= 0):
            raise ValueError(
                "`shrink` and `min_span` must be in (0, 1], and `min_delta` at least 0. "
                f"Received: {shrink=}, {min_span=}, {min_delta=}"
            )
        super().__init__(
            objective=objective,
            max_trials=max_trials,
            hyperparameters=hyperparameters,
            allow_new_entries=allow_new_entries,
            tune_new_entries=tune_new_entries,
            seed=seed,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        unknown = sorted(set(order) - {hp.name for hp in self.hyperparameters.space})
        if unknown and not self.allow_new_entries:
            raise ValueError(f"`order` must name hyperparameters of the space. Received: {unknown}")
        self.order = list(order)
        self.points, self.shrink, self.max_cycles = points, shrink, max_cycles
        self.min_span, self.min_delta = min_span, min_delta
        self.stop_reason = ""
        self._incumbent: Values = {}
        self._scores: dict[str, float | None] = {}  # by the key of a configuration; None if it failed
        self._pending: dict[str, str] = {}  # key of the configuration by the trial that runs it
        self._queue: list[Values] = []  # configurations of this visit that no trial runs yet
        self._visit: list[Values] = []  # all configurations of this visit
        self._cycle, self._axes, self._moved = 0, list[str](), False

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The values of the next trial; see `keras_tuner.Oracle`."""
        if not (self._scores or self._pending):
            self._incumbent = self._complete({})
            self._queue, self._axes = [self._incumbent], self._ordered_names()
        while not self._queue and not self._pending and not self.stop_reason:
            self._move()
            self._next_visit()
        if self._queue:
            values = self._queue.pop(0)
            self._pending[trial_id] = self._key(values)
            return {"status": "RUNNING", "values": values}
        return {"status": "STOPPED" if self.stop_reason else "IDLE", "values": None}

    @keras_tuner.synchronized
    def end_trial(self, trial: Any) -> None:
        """Note the score of a trial that is not tried again."""
        super().end_trial(trial)
        if trial.trial_id in self._pending and trial.trial_id in self.end_order:
            ended = self.trials[trial.trial_id]
            self._scores[self._pending.pop(trial.trial_id)] = ended.score if ended.status == "COMPLETED" else None
            self.save()  # the parent's was before the score

    def get_state(self) -> dict[str, Any]:
        """Everything that the rest of the search depends on."""
        return {**super().get_state(), **{name: getattr(self, name) for name in self._STATE}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `get_state`."""
        super().set_state(state)
        for name in self._STATE:
            setattr(self, name, state[name])

    _STATE = (
        "stop_reason",
        "_incumbent",
        "_scores",
        "_pending",
        "_queue",
        "_visit",
        "_cycle",
        "_axes",
        "_moved",
    )

    def _move(self) -> None:
        """Make the best configuration of the visit the incumbent, if it is better by more than `min_delta`."""
        best = self._incumbent
        for values in self._visit:
            if self._gain(values, best) > (self.min_delta if best is self._incumbent else 0):
                best = values
        self._moved |= best is not self._incumbent
        self._incumbent = best

    def _gain(self, values: Values, other: Values) -> float:
        """Difference of the scores, positive if the first is better; a failed one is infinitely worse."""
        score, base = self._scores[self._key(values)], self._scores[self._key(other)]
        if score is None or base is None:
            return 0.0 if score is None else float("inf")
        return score - base if self.objective.direction == "max" else base - score

    def _next_visit(self) -> None:
        """Queue what is new of the next hyperparameter, in this cycle or the next one."""
        self._visit = []
        if not self._axes:
            if not self._moved and self._span() <= self.min_span:
                self.stop_reason = "converged"
            elif self._cycle + 1 == self.max_cycles:
                self.stop_reason = "max_cycles"
            self._cycle, self._axes, self._moved = self._cycle + 1, self._ordered_names(), False
            return
        name, self._incumbent = self._axes.pop(0), self._complete(self._incumbent)
        axis = next((hp for hp in self._active(self._incumbent) if hp.name == name), None)
        if axis is None or isinstance(axis, kinds.Fixed):
            return
        self._visit = [self._complete({**self._incumbent, name: value}) for value in self._candidates(axis)]
        new = {self._key(values): values for values in reversed(self._visit)}  # of equal ones the first
        self._queue = [values for values in self._visit if new[self._key(values)] is values]
        self._queue = [values for values in self._queue if self._key(values) not in self._scores]

    def _span(self) -> float:
        return max(self.shrink**self._cycle, self.min_span)

    def _candidates(self, axis: Any) -> list[Any]:
        """Values to try of a hyperparameter, in order."""
        if not isinstance(axis, kinds.Float | kinds.Int):
            return list(axis.values)
        center = _to_unit(axis, self._incumbent[axis.name])
        low, high = (0.0, 1.0) if self._cycle == 0 else (center - self._span() / 2, center + self._span() / 2)
        low, high = max(0.0, low), min(1.0, high)
        return [_from_unit(axis, low + (high - low) * place / (self.points - 1)) for place in range(self.points)]

    def _ordered_names(self) -> list[str]:
        names = [hp.name for hp in self.hyperparameters.space]
        return list(dict.fromkeys([*(name for name in self.order if name in names), *names]))

    def _complete(self, values: Values) -> Values:
        """The active values of a configuration: those given, and the defaults of others."""
        complete: Values = {}
        for hp in self.hyperparameters.space:
            if all(condition.is_active(complete) for condition in hp.conditions):
                complete[hp.name] = values.get(hp.name, hp.default)
        return complete

    def _active(self, values: Values) -> list[Any]:
        return [
            hp for hp in self.hyperparameters.space if all(condition.is_active(values) for condition in hp.conditions)
        ]

    def _key(self, values: Values) -> str:
        """Identifies a configuration by what differs from the defaults: a new hyperparameter does not change it."""
        complete = self._complete(values)
        places = {
            hp.name: _place(hp, complete[hp.name])
            for hp in self._active(complete)
            if _place(hp, complete[hp.name]) != _place(hp, hp.default)
        }
        return json.dumps(places, sort_keys=True)


def _place(axis: Any, value: Any) -> Any:
    """Key of a value: that of a number is its position on the scale, to nine decimals."""
    return round(_to_unit(axis, value), 9) if isinstance(axis, kinds.Float | kinds.Int) else value


def _scale(axis: Any) -> Any:
    """The hyperparameter as one of any value in its interval."""
    return kinds.Float("", float(axis.min_value), float(axis.max_value), sampling=axis.sampling)


def _to_unit(axis: Any, value: float) -> float:
    """Place of a value on the scale of its hyperparameter, in [0, 1]."""
    return _scale(axis).value_to_prob(value)


def _from_unit(axis: Any, place: float) -> float:
    """The value at a place of the scale, or of those with a step the nearest one."""
    value = _scale(axis).prob_to_value(place)
    if axis.step is None:
        return round(value) if isinstance(axis, kinds.Int) else value
    return min(axis.values, key=lambda candidate: abs(_to_unit(axis, candidate) - place))
