"""`spread.json`: results of an experiment for several seeds, on one or more machines."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from anchorage.errors import DataError
from anchorage.files import replace_file
from anchorage_pipeline.config import Fraction, Section, Seed

FILE = "spread.json"
MIN_SEEDS = 2


class Machine(Section):
    """Hardware and software of a training; `name` distinguishes machines of the same kind."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    cpu: str
    cores: int
    gpu: str
    onednn: bool
    tensorflow: str

    @property
    def title(self) -> str:
        """The machine in one line."""
        parts = [self.cpu, f"{self.cores} cores", *filter(None, [self.gpu])]
        parts += [f"oneDNN {'on' if self.onednn else 'off'}", f"TensorFlow {self.tensorflow}"]
        return f"{self.name}: {', '.join(parts)}"


class Conditions(Section):
    """Digests of settings (without the seed), data and code; only trainings with equal conditions are compared."""

    settings: str
    data: str
    code: str


class Row(Section):
    """One training: its metrics on the test split, in [0, 1], and how they were measured."""

    machine: Machine
    seed: Seed
    conditions: Conditions
    values: Annotated[dict[str, Fraction], Field(min_length=1)]
    best_epoch: int
    seconds: float
    measured: str


class Statistics(Section):
    """One metric over several trainings; `deviation` is the sample standard deviation (n - 1)."""

    mean: float
    deviation: float
    lowest: float
    highest: float


class Summary(Section):
    """The spread for the report; `same_code`: whether it was measured with the current code."""

    metrics: dict[str, Statistics]
    seeds: list[Seed]
    machines: int
    trainings: int
    same_code: bool


class Spread(Section):
    """The file; `data_versions` maps `data_version`, which is fast to compute, to the digest of the content."""

    format: Literal[1] = 1
    data_versions: dict[str, str] = Field(default_factory=dict)
    rows: list[Row] = Field(default_factory=list)

    def add(self, row: Row) -> "Spread":
        """Return a copy with one more row."""
        return self.model_copy(update={"rows": [*self.rows, row]})

    def find(self, conditions: Conditions, machine: Machine | None = None) -> list[Row]:
        """The rows with these conditions, sorted by machine and seed; the last one if a seed was measured twice."""
        rows = {
            (row.machine.title, row.seed): row
            for row in self.rows
            if row.conditions == conditions and machine in (None, row.machine)
        }
        return [rows[key] for key in sorted(rows)]

    def summarize(self, settings: str, data_version: str, code: str) -> Summary | None:
        """The spread for these settings and data, with this code if it was measured, else with the latest code.

        Returns:
            The summary, or None for fewer than two seeds.
        """
        data = self.data_versions.get(data_version)
        candidates = [row for row in self.rows if (row.conditions.settings, row.conditions.data) == (settings, data)]
        newest_first = sorted(candidates, key=lambda row: row.measured, reverse=True)
        versions = dict.fromkeys(row.conditions.code for row in newest_first)
        for version in sorted(versions, key=lambda version: version != code):
            rows = self.find(Conditions(settings=settings, data=str(data), code=version))
            if len({row.seed for row in rows}) >= MIN_SEEDS:
                return Summary(
                    metrics=describe(rows),
                    seeds=sorted({row.seed for row in rows}),
                    machines=len({row.machine.title for row in rows}),
                    trainings=len(rows),
                    same_code=version == code,
                )
        return None


def describe(rows: Sequence[Row]) -> dict[str, Statistics]:
    """Statistics of each metric that all rows have; needs at least two rows."""
    metrics = {
        name: [row.values[name] for row in rows] for name in rows[0].values if all(name in r.values for r in rows)
    }
    return {
        name: Statistics(
            mean=statistics.fmean(values),
            deviation=statistics.stdev(values),
            lowest=min(values),
            highest=max(values),
        )
        for name, values in metrics.items()
    }


def read_spread(path: Path) -> Spread:
    """Read the file; an empty `Spread` if it does not exist.

    Raises:
        DataError: E_SPREAD_DAMAGED.
    """
    try:
        return Spread.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Spread()
    except OSError as error:
        reason = str(error.strerror)
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    raise DataError(
        "E_SPREAD_DAMAGED",
        f"Expected a file of `anchorage spread` at {path}. Received: {reason}. "
        "Restore a copy, or remove the file to measure the seeds again",
    )


def write_spread(path: Path, spread: Spread) -> None:
    """Write the file atomically."""
    replace_file(path, spread.model_dump_json(indent=1).encode())
