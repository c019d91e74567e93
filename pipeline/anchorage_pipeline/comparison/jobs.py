"""Jobs of a comparison: the document that a child process runs, and the key of its record."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorage_pipeline.comparison.data import Images
from anchorage_pipeline.comparison.plan import CHOICE, Block, Candidate
from anchorage_pipeline.comparison.settings import Comparison
from anchorage_pipeline.fingerprint import code_version, digest, training_modules
from anchorage_pipeline.identity import training_settings

_CORE = (
    "anchorage.procedures",
    "anchorage.training.validation",
    "anchorage.retrieval.metrics",
    "anchorage.data.store",
    "anchorage.data.subset",
)


@dataclass(frozen=True)
class Job:
    """One training run.

    Args:
        key: digest of everything that the result depends on.
        title: title for progress messages.
        record: file for the result.
        document: input of the child process.
    """

    key: str
    title: str
    record: Path
    document: dict[str, Any]

    def read(self) -> dict[str, Any] | None:
        """The record of the run, or None."""
        try:
            return json.loads(self.record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    @property
    def done(self) -> bool:
        """Whether the run has a record that does not ask for a retry."""
        record = self.read()
        return record is not None and not record.get("again")


class Jobs:
    """Creates the jobs of a comparison.

    Args:
        comparison: the comparison file.
        images: its packed images.
    """

    def __init__(self, comparison: Comparison, images: Images):
        self._comparison, self._images = comparison, images
        self._codes: dict[tuple[str, ...], str] = {}

    def of(self, candidate: Candidate, block: Block, title: str) -> Job:
        """The job of a candidate in a block."""
        experiment = candidate.experiment.model_copy(update={"seed": block.seed})
        settings = training_settings(experiment)
        modules, tables = training_modules(settings, *_CORE)
        sides = self._images.sides(block, self._comparison.validation)
        inputs = {
            **sides,
            "settings": settings,
            "metrics": self._comparison.metrics,
            "data": self._images.digest,
            "code": self._code(modules, tables),
        }
        key = digest(inputs)
        paths = {"half": str(self._images.half), "test": str(self._images.test) if block.fold is None else None}
        record = self._comparison.folder / "records" / f"{key}.json"
        document = {**inputs, **paths, "record": str(record), "key": key, "modules": modules, "tables": tables}
        return Job(key, title, record, document)

    def trials(self, candidates: Sequence[Candidate], name: str) -> list[Job]:
        """One job per candidate; none if there is only one candidate."""
        if len(candidates) < 2:
            return []
        return [self.of(one, CHOICE, f"{name}, trial {format_values(one.values)}") for one in candidates]

    def _code(self, modules: Sequence[str], tables: Sequence[str]) -> str:
        key = (*modules, "", *tables)
        if key not in self._codes:
            self._codes[key] = code_version(*modules, tables=tables)
        return self._codes[key]


def format_values(values: Mapping[str, Any]) -> str:
    """Format values by the last part of their key, as in "learning_rate 0.001"."""
    return ", ".join(
        f"{path.rpartition('.')[2]} {f'{value:g}' if isinstance(value, float) else value}"
        for path, value in values.items()
    )
