"""The comparison file: one TOML document that names settings of one experiment to be compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from anchorage.errors import UsageError
from anchorage_pipeline.config import Location, Section, Seed, explain
from anchorage_pipeline.documents import read_toml

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Grid = dict[str, Annotated[list[Any], Field(min_length=1)]]


class Entry(Section):
    """One row of the table: the experiment with some keys of its own.

    `against` names the entry it is compared with, `set` holds partial tables of an experiment file, `tune` lists
    values by the path of their key, `unlike` says why it may differ from the others in what should be equal.
    """

    name: Name
    label: str = ""
    against: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    tune: Grid = Field(default_factory=dict)
    unlike: str = ""
    note: str = ""


class Comparison(Section):
    """Everything that tells one comparison from another.

    The classes outside the test half are dealt into `folds`. Fold 0 makes the choices: the values of `tune`, with seed
    0, and with `validation` the epoch of every run. The others take turns in judging. `design` says whether every seed
    meets every one of them ("crossed") or each seed the next one in turn ("paired"). With `judge = "test"` the
    runs are judged on the test half instead. With `judge = "choice"` there are only the trials, as many as an entry
    likes, and the best of them stands in the table: to look for causes and settings, not for a verdict.
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

    @model_validator(mode="after")
    def _names_lead_somewhere(self):
        names = [entry.name for entry in self.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each entry needs a name of its own. Received more than once: {', '.join(twice)}")
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
        """Where records, logs, table and pictures stay."""
        return Path(self.runs).absolute() / self.name


def load_comparison(path: str | Path) -> tuple[Comparison, dict[str, Any]]:
    """Read and check one comparison file.

    Returns:
        The comparison, and its experiment file as a plain document with the comparison's own `set` laid over it.

    Raises:
        UsageError: E_COMPARISON_MISSING, E_COMPARISON_SYNTAX, E_COMPARISON_KIND for an experiment file, or E_COMPARISON
            naming every mistake.
    """
    path = Path(path)
    document = read_toml(path, "comparison")
    if {"data", "loss"} & set(document):
        told = f"`anchorage check {path}`, or run or train in place of check"
        raise UsageError("E_COMPARISON_KIND", f"{path} is an experiment, not a comparison: {told}")
    try:
        comparison = Comparison.model_validate(document)
    except ValidationError as error:
        raise UsageError("E_COMPARISON", f"{path} has mistakes:\n{explain(error, Comparison)}") from None
    return comparison, merge(read_toml(path.parent / comparison.experiment, "comparison"), comparison.set)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a partial table over another; a table that gets another `name` loses the `params` of the old one.

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
