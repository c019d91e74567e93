"""From a comparison file to settled experiments, and the refusal to compare what is unlike."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from anchorage.errors import UsageError
from anchorage_pipeline.comparison.settings import Comparison, Entry, merge
from anchorage_pipeline.config import Experiment, explain, search_space
from anchorage_pipeline.recipe import write_out


class Block(NamedTuple):
    """What a run is repeated over: its seed and the fold that judges it; no fold where the test half does."""

    seed: int
    fold: int | None

    @property
    def told(self) -> str:
        """As in "seed 2, fold 3"."""
        return f"seed {self.seed}, " + ("test" if self.fold is None else f"fold {self.fold}")


@dataclass(frozen=True)
class Candidate:
    """An entry with one value from each of its grids.

    Args:
        values: the chosen value by the path of its key.
        experiment: the whole experiment that comes of it.
    """

    values: dict[str, Any]
    experiment: Experiment


CHOICE = Block(seed=0, fold=0)  # where values are chosen


def report_blocks(comparison: Comparison) -> list[Block]:
    """What every entry is repeated over for the table."""
    if comparison.judge == "choice":
        return [CHOICE]
    if comparison.judge == "test":
        return [Block(seed, None) for seed in comparison.seeds]
    folds = range(1, comparison.folds)
    if comparison.design == "crossed":
        return [Block(seed, fold) for seed in comparison.seeds for fold in folds]
    return [Block(seed, folds[place % len(folds)]) for place, seed in enumerate(comparison.seeds)]


def expand(comparison: Comparison, document: Mapping[str, Any]) -> dict[str, list[Candidate]]:
    """The candidates of every entry, by its name; one where nothing is to be chosen.

    Raises:
        UsageError: E_COMPARISON_ENTRY if an entry is no experiment; E_UNEQUAL_TRIALS if the entries have not the same
            number of candidates and do not say why; E_RANGES_NOT_SEARCHED if one holds ranges.
    """
    plan = {entry.name: _candidates(entry, comparison.tune, document) for entry in comparison.entries}
    counts = {entry.name: len(plan[entry.name]) for entry in comparison.entries if not entry.unlike}
    if len(set(counts.values())) > 1 and comparison.judge != "choice":
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(
            "E_UNEQUAL_TRIALS",
            f"Expected as many trials for each entry as for the others. Received: {told}. Make the lists in `tune` "
            "equally many, or give the reason in `unlike`",
        )
    return plan


def _candidates(entry: Entry, common: Mapping[str, list[Any]], document: Mapping[str, Any]) -> list[Candidate]:
    grid = entry.tune or common
    own = merge(document, {**entry.set, "name": entry.name})
    candidates = []
    for chosen in itertools.product(*grid.values()):
        values = dict(zip(grid, chosen, strict=True))
        settled = own
        for path, value in values.items():
            settled = merge(settled, _nested(path, value))
        try:
            experiment = Experiment.model_validate(settled)
        except ValidationError as error:
            raise UsageError("E_COMPARISON_ENTRY", f"The entry {entry.name!r}:\n{explain(error, Experiment)}") from None
        ranges = search_space(experiment)
        if ranges:
            raise UsageError(
                "E_RANGES_NOT_SEARCHED",
                f"A comparison takes fixed values; those to choose from stand in `tune`. Received ranges for "
                f"{', '.join(ranges)} in the entry {entry.name!r}",
            )
        candidates.append(Candidate(values, experiment))
    return candidates


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def write_plan(plan: Mapping[str, Sequence[Candidate]], labels: Sequence[int]) -> dict[str, list[Candidate]]:
    """The same candidates with what the recipe chooses for these labels written out, so that it can be compared."""
    counts = np.bincount(labels).tolist()
    return {
        name: [replace(one, experiment=write_out(one.experiment, counts)) for one in candidates]
        for name, candidates in plan.items()
    }


def check_alike(
    comparison: Comparison, plan: Mapping[str, Sequence[Candidate]], labels: Sequence[int]
) -> dict[str, list[str]]:
    """Compare data, backbone, dimension, augmentation and budget of all entries.

    Args:
        comparison: the file.
        plan: its candidates.
        labels: of a training set, which a sampler needs to tell the size of its batches.

    Returns:
        In which keys an entry that says why differs from the others, by its name; and in which rate factors from the
        entry that it is held against: those are free to differ, but belong to such a reason.

    Raises:
        UsageError: E_UNLIKE if one differs and does not say why.
    """
    plan = write_plan(plan, labels)
    budgets = {name: [budget(one.experiment, labels) for one in candidates] for name, candidates in plan.items()}
    usual = next((entry.name for entry in comparison.entries if not entry.unlike), comparison.entries[0].name)
    differing: dict[str, list[str]] = {}
    for entry in comparison.entries:
        for mine in budgets[entry.name]:
            keys = _differing(mine, budgets[usual][0])
            if keys and not entry.unlike:
                told = "; ".join(
                    f"{key} = {mine.get(key)!r} here, {budgets[usual][0].get(key)!r} there" for key in keys
                )
                raise UsageError(
                    "E_UNLIKE",
                    f"The entries {entry.name!r} and {usual!r} cannot be compared fairly: {told}. Make them equal, or "
                    f'give a reason that the table will print: unlike = "..."',
                )
            differing.setdefault(entry.name, []).extend(k for k in keys if k not in differing.get(entry.name, []))
        if entry.unlike:
            own, base = (plan[name][0].experiment for name in (entry.name, entry.against or usual))
            differing[entry.name] += _differing_rates(own, base)
    return {name: keys for name, keys in differing.items() if keys}


def budget(experiment: Experiment, labels: Sequence[int]) -> dict[str, Any]:
    """What must be equal in a fair comparison, by the path of its key.

    Whether embeddings are brought to unit length in the encoder or in the loss is the loss's affair and left out.
    """
    from anchorage.data.sampling import SAMPLERS
    from anchorage.registry import create

    training = experiment.training.model_dump(mode="json")
    sampler = training["sampler"]
    made = create(SAMPLERS, sampler["name"], sampler["params"], {"labels": labels, "seed": 0})
    steps: Any = training["epochs"] * training["steps_per_epoch"]
    if not steps:
        steps = f"{training['epochs']} rounds of {sampler['name']} {sampler['params']}"
    parts = {"data": experiment.data.model_dump(mode="json"), "encoder": experiment.encoder.model_dump(mode="json")}
    parts["encoder"]["params"].pop("normalize", None)
    flat = {f"{part}.{key}": value for part, table in parts.items() for key, value in table.items()}
    own = {"sampler", "optimizer", "methods", "steps_per_epoch", "augmentation"}  # told otherwise, or free to differ
    flat |= {f"training.{key}": value for key, value in training.items() if key not in own}
    augmentation = {key: value for key, value in training["augmentation"].items() if value}
    return flat | {"batch size": made.batch_size, "steps": steps, "training.augmentation": augmentation}


def _differing_rates(one: Experiment, other: Experiment) -> list[str]:
    factors, others = (experiment.training.optimizer.rate_factors for experiment in (one, other))
    groups = [group for group in {**others, **factors} if factors.get(group, 1.0) != others.get(group, 1.0)]
    return [f"training.optimizer.rate_factors.{group}" for group in groups]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [key for key in one if one[key] != other.get(key)]
