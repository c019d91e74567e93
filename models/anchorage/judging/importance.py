"""Which settings of a search mattered: permutation importance of a random forest on its trials."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MIN_TRIALS = 10  # with a score; fewer say nothing about several settings
_TREES, _SHUFFLES = 100, 20
_LEAF = 2  # trials of a leaf, at least


def measure_importance(trials: Sequence[Mapping[str, Any]], paths: Sequence[str]) -> dict[str, Any]:
    """Measure how much a random forest that predicts the score of a trial relies on each setting.

    A trial is predicted by the trees that were not grown with it (out of bag). The importance of a setting is the loss
    of R2 of these predictions when its values are shuffled among the trials. Trees split by order: neither a
    logarithmic scale nor the distance between choices, which are numbered in the order of their text, has an influence.

    Args:
        trials: each with `values` by the path of a setting, and `score`, None for a failed trial. A setting that a
            trial does not have, since its condition does not hold, counts as one more value, below all others.
        paths: the settings.

    Returns:
        `trials`, those with a score; `r2` of the out-of-bag predictions, None if there were too few trials or all have
        the same score; `settings`, from the most to the least important: `path`, `importance`, and `low` and `high`,
        the 5th and 95th percentile over the shuffles; empty if `r2` is None or not above 0; and `reason`, why there are
        none.
    """
    scored = [trial for trial in trials if trial["score"] is not None]
    needed = max(MIN_TRIALS, 3 * len(paths))
    found: dict[str, Any] = {"trials": len(scored), "r2": None, "settings": [], "reason": ""}
    scores = np.array([trial["score"] for trial in scored], float)
    if len(scored) < needed:
        return {**found, "reason": f"{len(paths)} settings need at least {needed} trials with a score"}
    if not np.ptp(scores):
        return {**found, "reason": "all trials have the same score"}
    table = np.stack([_codes([trial["values"].get(path) for trial in scored]) for path in paths], axis=1)
    base, shuffled = _scores(table, scores)
    found["r2"] = base
    if base <= 0:
        return {**found, "reason": "the forest predicts the trials no better than their mean does"}
    losses = base - shuffled
    ends = np.percentile(losses, [5, 95], axis=1)
    settings = [
        {"path": path, "importance": float(losses[at].mean()), "low": float(ends[0, at]), "high": float(ends[1, at])}
        for at, path in enumerate(paths)
    ]
    return {**found, "settings": sorted(settings, key=lambda each: -each["importance"])}


def _scores(table: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """R2 out of bag, and after shuffling each column (columns, shuffles)."""
    from sklearn.ensemble import RandomForestRegressor

    count, columns = table.shape
    forest = RandomForestRegressor(_TREES, min_samples_leaf=_LEAF, max_features=1.0, random_state=0)
    forest.fit(table, scores)
    random = np.random.default_rng(0)
    variants = np.repeat(table[None], 1 + columns * _SHUFFLES, axis=0)
    for number in range(columns * _SHUFFLES):
        column = number // _SHUFFLES
        variants[1 + number, :, column] = random.permutation(table[:, column])
    total, seen = np.zeros(variants.shape[:2]), np.zeros(count)
    for tree, grown_with in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        unseen = np.setdiff1d(np.arange(count), grown_with)
        if len(unseen):
            rows = variants[:, unseen].reshape(-1, columns)
            total[:, unseen] += tree.predict(rows).reshape(len(variants), -1)
            seen[unseen] += 1
    judged = seen > 0
    errors = np.square(total[:, judged] / seen[judged] - scores[judged]).mean(axis=1)
    r2 = 1 - errors / np.square(scores[judged] - scores[judged].mean()).mean()
    return float(r2[0]), r2[1:].reshape(columns, _SHUFFLES)


def _codes(values: Sequence[Any]) -> np.ndarray:
    """Numbers in the order of the values, -1 for a missing one."""
    given = [value for value in values if value is not None]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        order = {value: place for place, value in enumerate(sorted(set(given)))}
    else:
        order = {value: place for place, value in enumerate(sorted(set(given), key=str))}
    return np.array([-1 if value is None else order[value] for value in values], float)
