"""The comparison file: a TOML document with the settings of an experiment to compare."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from anchorage.errors import UsageError
from anchorage_pipeline.config import Location, Section, Seed, explain
from anchorage_pipeline.documents import read_toml
from anchorage_pipeline.overrides import apply_overrides

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Grid = dict[str, Annotated[list[Any], Field(min_length=1)]]


class Entry(Section):
    """One row of the table: a variant of the experiment.

    Attributes:
        name: name of the entry, 1 to 63 of the characters a-z, 0-9 and -; required and unique.
        label: name to print in the table; "" prints `name`.
        against: name of the entry that it is compared against; "" compares it with none.
        set: partial tables of an experiment file that replace those of the experiment; {} changes nothing.
        tune: lists of values to choose from in trials, by the path of their key; {} takes the comparison's own `tune`.
        unlike: reason why the entry may differ in settings that should be equal; "" allows no difference.
        note: remark to print below the table; "" prints none.
    """

    name: Name
    label: str = ""
    against: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    tune: Grid = Field(default_factory=dict)
    unlike: str = ""
    note: str = ""


class Comparison(Section):
    """All settings of a comparison.

    The classes outside the test half are split into folds. Fold 0 is for model selection: the values of `tune`, with
    seed 0, and, with `validation`, the epoch of every run. The other folds are for evaluation.

    Attributes:
        name: name of the comparison, 1 to 63 of the characters a-z, 0-9 and -; required.
        experiment: path of the experiment file, relative to the comparison file; required.
        runs: folder that holds the folder of the comparison; default "runs".
        seeds: distinct training seeds above 0; default [1, 2, 3].
        folds: number of class folds, 3 to 1,000; default 6.
        fold_seed: seed of the assignment of classes to folds; default 0.
        design: "crossed" (default) runs every seed on every evaluation fold; "paired" runs each seed on the next fold.
        judge: "folds" (default) evaluates on the folds, "test" on the test half; "choice" runs the trials only, any
            number per entry, and shows the best one: for exploration, not for a fair comparison.
        validation: whether fold 0 selects the epoch of every run (default); otherwise the last epoch is evaluated.
        metrics: metrics of the table; default ["recall@1", "map@r"].
        primary: metric, one of `metrics`, for choices, ranks and figures; default "map@r".
        set: partial tables of an experiment file that replace those of the experiment for all entries; default {}.
        tune: lists of values to choose from in trials, by the path of their key, for all entries; default {}.
        entries: rows of the table; at least one.
    """

    name: Name
    experiment: Location
    runs: Location = "runs"
    seeds: list[Annotated[Seed, Field(gt=0)]] = Field(default_factory=lambda: [1, 2, 3], min_length=1)
    folds: Annotated[int, Field(ge=3, le=1_000)] = 6
    fold_seed: Seed = 0
    design: Literal["crossed", "paired"] = "crossed"
    judge: Literal["folds", "test", "choice"] = "folds"
    validation: bool = True
    metrics: list[str] = Field(default_factory=lambda: ["recall@1", "map@r"], min_length=1)
    primary: str = "map@r"
    set: dict[str, Any] = Field(default_factory=dict)
    tune: Grid = Field(default_factory=dict)
    entries: Annotated[list[Entry], Field(min_length=1)]
    _overrides: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _check_names(self):
        names = [entry.name for entry in self.entries]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"each entry needs a unique name. Received more than once: {', '.join(duplicates)}")
        for entry in self.entries:
            if entry.against and (entry.against not in names or entry.against == entry.name):
                raise ValueError(
                    f"`against` must name another entry. Received: {entry.against!r} in the entry {entry.name!r}"
                )
        if self.primary not in self.metrics:
            raise ValueError(f"`primary` must be one of `metrics`. Received: {self.primary!r}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds` must differ. Received: {self.seeds}")
        return self

    @property
    def folder(self) -> Path:
        """Folder for records, logs, table and figures."""
        return Path(self.runs).absolute() / self.name

    @property
    def overrides(self) -> tuple[str, ...]:
        """Values that replace those of the files, such as `"seeds=[1]"`."""
        return self._overrides


def load_comparison(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Comparison, dict[str, Any]]:
    """Read and validate a comparison file.

    Args:
        path: the file.
        overrides: values that replace those of the files, as for `apply_overrides`. If the first key is one of a
            comparison, such as `seeds`, the value belongs to this file, else to the experiment of all entries.

    Returns:
        The comparison, and the tables of its experiment file with the comparison's `set` merged in.

    Raises:
        UsageError: E_COMPARISON_MISSING, E_COMPARISON_SYNTAX, E_COMPARISON_KIND for an experiment file, E_OVERRIDE, or
            E_COMPARISON with every mistake.
    """
    path = Path(path)
    own = [text for text in overrides if text.partition("=")[0].strip().split(".")[0] in Comparison.model_fields]
    document = apply_overrides(read_toml(path, "comparison"), own)
    if {"data", "loss"} & set(document):
        advice = f"use `anchorage check {path}`, or `run` or `train` instead of `check`"
        raise UsageError("E_COMPARISON_KIND", f"{path} is an experiment, not a comparison: {advice}")
    try:
        comparison = Comparison.model_validate(document)
    except ValidationError as error:
        raise UsageError("E_COMPARISON", f"{path} has mistakes:\n{explain(error, Comparison)}") from None
    comparison._overrides = tuple(overrides)
    experiment = merge(read_toml(path.parent / comparison.experiment, "comparison"), comparison.set)
    return comparison, apply_overrides(experiment, [text for text in overrides if text not in own])


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a partial table into another; a table whose `name` changes loses its old `params`.

    Example:
        >>> merge({"loss": {"name": "a", "params": {"m": 1}}, "seed": 1}, {"loss": {"name": "b"}})
        {'loss': {'name': 'b'}, 'seed': 1}
    """
    merged = dict(base)
    if "name" in over and over["name"] != base.get("name"):
        merged.pop("params", None)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return merged
