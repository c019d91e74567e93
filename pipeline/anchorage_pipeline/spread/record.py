"""`spread.json`: what trainings of one experiment with several seeds gave, on one machine or on several."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from anchorage.errors import DataError
from anchorage.files import replace_file
from anchorage_pipeline.config import Fraction, Section, Seed

FILE = "spread.json"
FEWEST = 2  # seeds that have a spread


class Machine(Section):
    """Where a training ran and with what; `name` tells machines of one kind apart."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    cpu: str
    cores: int
    gpu: str
    onednn: bool
    tensorflow: str

    @property
    def told(self) -> str:
        """In one line."""
        parts = [self.cpu, f"{self.cores} cores", *filter(None, [self.gpu])]
        parts += [f"oneDNN {'on' if self.onednn else 'off'}", f"TensorFlow {self.tensorflow}"]
        return f"{self.name}: {', '.join(parts)}"


class Conditions(Section):
    """What trainings must have in common to be compared: digests of settings but the seed, of data, and of code."""

    settings: str
    data: str
    code: str


class Row(Section):
    """One training: its metrics on the test split, in [0, 1], and how it came about."""

    machine: Machine
    seed: Seed
    conditions: Conditions
    values: Annotated[dict[str, Fraction], Field(min_length=1)]
    best_epoch: int
    seconds: float
    measured: str


class Statistics(Section):
    """One metric over several trainings; `deviation` is the standard deviation of a sample (n - 1)."""

    mean: float
    deviation: float
    lowest: float
    highest: float


class Summary(Section):
    """What a report says of the spread: each metric over all trainings, and over which.

    `same_code` says whether the trainings ran with the code of today.
    """

    metrics: dict[str, Statistics]
    seeds: list[Seed]
    machines: int
    trainings: int
    same_code: bool


class Spread(Section):
    """The file. `data_versions` leads from what is quickly found of data on a machine to the digest of its content."""

    format: Literal[1] = 1
    data_versions: dict[str, str] = Field(default_factory=dict)
    rows: list[Row] = Field(default_factory=list)

    def add(self, row: Row) -> "Spread":
        """The file with one more row."""
        return self.model_copy(update={"rows": [*self.rows, row]})

    def find(self, conditions: Conditions, machine: Machine | None = None) -> list[Row]:
        """The rows under these conditions, by machine and seed; the newest where one was measured twice."""
        found = {
            (row.machine.told, row.seed): row
            for row in self.rows
            if row.conditions == conditions and machine in (None, row.machine)
        }
        return [found[key] for key in sorted(found)]

    def summarize(self, settings: str, data_version: str, code: str) -> Summary | None:
        """The spread with these settings on this data, with this code if that was measured, else with the newest.

        Returns:
            None where no two seeds were measured.
        """
        data = self.data_versions.get(data_version)
        alike = [row for row in self.rows if (row.conditions.settings, row.conditions.data) == (settings, data)]
        codes = dict.fromkeys(row.conditions.code for row in sorted(alike, key=lambda row: row.measured, reverse=True))
        for one in sorted(codes, key=lambda one: one != code):
            rows = self.find(Conditions(settings=settings, data=str(data), code=one))
            if len({row.seed for row in rows}) >= FEWEST:
                return Summary(
                    metrics=describe(rows),
                    seeds=sorted({row.seed for row in rows}),
                    machines=len({row.machine.told for row in rows}),
                    trainings=len(rows),
                    same_code=one == code,
                )
        return None


def describe(rows: Sequence[Row]) -> dict[str, Statistics]:
    """Mean, standard deviation, lowest and highest value of each metric that all rows have; of two rows or more."""
    values = {
        name: [row.values[name] for row in rows] for name in rows[0].values if all(name in r.values for r in rows)
    }
    return {
        name: Statistics(
            mean=statistics.fmean(of_name),
            deviation=statistics.stdev(of_name),
            lowest=min(of_name),
            highest=max(of_name),
        )
        for name, of_name in values.items()
    }


def read_spread(path: Path) -> Spread:
    """The file, or an empty one where there is none.

    Raises:
        DataError: E_SPREAD_DAMAGED.
    """
    try:
        return Spread.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Spread()
    except OSError as error:
        told = str(error.strerror)
    except ValidationError as error:
        first = error.errors()[0]
        told = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    raise DataError(
        "E_SPREAD_DAMAGED",
        f"Expected what `anchorage spread` wrote in {path}. Received: {told}. "
        "Put a whole copy in its place, or remove it: the seeds are then measured again",
    )


def write_spread(path: Path, spread: Spread) -> None:
    """Write the file, whole or not at all."""
    replace_file(path, spread.model_dump_json(indent=1).encode())
