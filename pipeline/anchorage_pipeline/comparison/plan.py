"""Expand a comparison file into experiments, and check that they can be compared fairly."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from anchorage.errors import UsageError
from anchorage_pipeline.comparison.settings import Comparison, Entry, merge
from anchorage_pipeline.config import Experiment, explain
from anchorage_pipeline.recipe import write_out
from anchorage_pipeline.values import search_space


class Block(NamedTuple):
    """A repetition of a run: its seed, and the fold that it is evaluated on, or None for the test half."""

    seed: int
    fold: int | None

    @property
    def title(self) -> str:
        """For example "seed 2, fold 3"."""
        return f"seed {self.seed}, " + ("test" if self.fold is None else f"fold {self.fold}")


@dataclass(frozen=True)
class Candidate:
    """An entry with one value from each of its grids.

    Args:
        values: the value of each grid by the path of its key.
        experiment: the experiment with these values.
    """

    values: dict[str, Any]
    experiment: Experiment


CHOICE = Block(seed=0, fold=0)  # the block of the trials


def report_blocks(comparison: Comparison) -> list[Block]:
    """The repetitions of every entry for the table."""
    if comparison.judge == "choice":
        return [CHOICE]
    if comparison.judge == "test":
        return [Block(seed, None) for seed in comparison.seeds]
    folds = range(1, comparison.folds)
    if comparison.design == "crossed":
        return [Block(seed, fold) for seed in comparison.seeds for fold in folds]
    return [Block(seed, folds[index % len(folds)]) for index, seed in enumerate(comparison.seeds)]


def expand(comparison: Comparison, document: Mapping[str, Any]) -> dict[str, list[Candidate]]:
    """The candidates of every entry by its name; one candidate if the entry has no grid.

    Raises:
        UsageError: E_COMPARISON_ENTRY if an entry is not a valid experiment; E_UNEQUAL_TRIALS if the numbers of
            candidates differ without a reason in `unlike`; E_RANGES_NOT_SEARCHED if an entry has ranges.
    """
    plan = {entry.name: _candidates(entry, comparison.tune, document) for entry in comparison.entries}
    counts = {entry.name: len(plan[entry.name]) for entry in comparison.entries if not entry.unlike}
    if len(set(counts.values())) > 1 and comparison.judge != "choice":
        trials = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(
            "E_UNEQUAL_TRIALS",
            f"Expected the same number of trials for every entry. Received: {trials}. Make the lists in `tune` equally "
            "long, or give the reason in `unlike`",
        )
    return plan


def _candidates(entry: Entry, common: Mapping[str, list[Any]], document: Mapping[str, Any]) -> list[Candidate]:
    grid = entry.tune or common
    own = merge(document, {**entry.set, "name": entry.name})
    candidates = []
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        tables = own
        for path, value in values.items():
            tables = merge(tables, _nested(path, value))
        try:
            experiment = Experiment.model_validate(tables)
        except ValidationError as error:
            raise UsageError("E_COMPARISON_ENTRY", f"The entry {entry.name!r}:\n{explain(error, Experiment)}") from None
        ranges = search_space(experiment)
        if ranges:
            raise UsageError(
                "E_RANGES_NOT_SEARCHED",
                f"A comparison takes fixed values, or lists of values in `tune`. Received ranges for "
                f"{', '.join(item.path for item in ranges)} in the entry {entry.name!r}",
            )
        candidates.append(Candidate(values, experiment))
    return candidates


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def write_plan(plan: Mapping[str, Sequence[Candidate]], labels: Sequence[int]) -> dict[str, list[Candidate]]:
    """Fill in the recipe's choices for these labels in all candidates, so that they can be compared."""
    counts = np.bincount(labels).tolist()
    return {
        name: [replace(one, experiment=write_out(one.experiment, counts)) for one in candidates]
        for name, candidates in plan.items()
    }


def check_alike(
    comparison: Comparison, plan: Mapping[str, Sequence[Candidate]], labels: Sequence[int]
) -> dict[str, list[str]]:
    """Check that data, backbone, embedding size, augmentation and budget of all entries are equal.

    Args:
        comparison: the comparison file.
        plan: its candidates.
        labels: labels of a training set, from which a sampler derives its batch size.

    Returns:
        For each entry with a reason in `unlike`, the keys in which it differs from the others, and the rate factors in
        which it differs from the entry that it is compared against. Rate factors may differ without a reason.

    Raises:
        UsageError: E_UNLIKE if an entry differs without a reason.
    """
    plan = write_plan(plan, labels)
    budgets = {name: [budget(one.experiment, labels) for one in candidates] for name, candidates in plan.items()}
    reference = next((entry.name for entry in comparison.entries if not entry.unlike), comparison.entries[0].name)
    expected = budgets[reference][0]
    differing: dict[str, list[str]] = {}
    for entry in comparison.entries:
        for actual in budgets[entry.name]:
            keys = _differing(actual, expected)
            if keys and not entry.unlike:
                details = "; ".join(f"{key} = {actual.get(key)!r} vs. {expected.get(key)!r}" for key in keys)
                raise UsageError(
                    "E_UNLIKE",
                    f"The entries {entry.name!r} and {reference!r} cannot be compared fairly: {details}. Make them "
                    f'equal, or give a reason, which the table will print: unlike = "..."',
                )
            differing.setdefault(entry.name, []).extend(k for k in keys if k not in differing.get(entry.name, []))
        if entry.unlike:
            own, base = (plan[name][0].experiment for name in (entry.name, entry.against or reference))
            differing[entry.name] += _differing_rates(own, base)
    return {name: keys for name, keys in differing.items() if keys}


def budget(experiment: Experiment, labels: Sequence[int]) -> dict[str, Any]:
    """The settings that must be equal in a fair comparison, by the path of their key.

    `normalize` of the encoder is excluded: some losses normalize embeddings themselves.
    """
    from anchorage.data.sampling import SAMPLERS
    from anchorage.registry import create

    training = experiment.training.model_dump(mode="json")
    sampler = training["sampler"]
    batch_size = create(SAMPLERS, sampler["name"], sampler["params"], {"labels": labels, "seed": 0}).batch_size
    steps: Any = training["epochs"] * training["steps_per_epoch"]
    if not steps:
        steps = f"{training['epochs']} rounds of {sampler['name']} {sampler['params']}"
    parts = {"data": experiment.data.model_dump(mode="json"), "encoder": experiment.encoder.model_dump(mode="json")}
    parts["encoder"]["params"].pop("normalize", None)
    flat = {f"{part}.{key}": value for part, table in parts.items() for key, value in table.items()}
    excluded = {"sampler", "optimizer", "methods", "steps_per_epoch", "augmentation"}  # free to differ, or added below
    flat |= {f"training.{key}": value for key, value in training.items() if key not in excluded}
    augmentation = {key: value for key, value in training["augmentation"].items() if value}
    return flat | {"batch size": batch_size, "steps": steps, "training.augmentation": augmentation}


def _differing_rates(one: Experiment, other: Experiment) -> list[str]:
    factors, others = (experiment.training.optimizer.rate_factors for experiment in (one, other))
    groups = [group for group in {**others, **factors} if factors.get(group, 1.0) != others.get(group, 1.0)]
    return [f"training.optimizer.rate_factors.{group}" for group in groups]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in one if one[key] != other.get(key)]
