"""One run of a comparison as a document that a child process can work off, and the key of its record."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorage_pipeline.comparison.data import Images
from anchorage_pipeline.comparison.plan import CHOICE, Block, Candidate
from anchorage_pipeline.comparison.settings import Comparison
from anchorage_pipeline.fingerprint import code_version, digest, training_modules
from anchorage_pipeline.graph import training_settings

_CORE = (
    "anchorage.procedures",
    "anchorage.training.validation",
    "anchorage.retrieval.metrics",
    "anchorage.data.store",
    "anchorage.data.subset",
)


@dataclass(frozen=True)
class Job:
    """A run to be done.

    Args:
        key: digest of everything that its outcome depends on.
        title: for people.
        record: file that its outcome goes to.
        document: what the child process gets.
    """

    key: str
    title: str
    record: Path
    document: dict[str, Any]

    def read(self) -> dict[str, Any] | None:
        """Its record, if there is one."""
        try:
            return json.loads(self.record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    @property
    def done(self) -> bool:
        """Whether there is nothing to be gained by running it (again)."""
        record = self.read()
        return record is not None and not record.get("again")


class Jobs:
    """Makes the jobs of a comparison.

    Args:
        comparison: the file.
        images: its data.
    """

    def __init__(self, comparison: Comparison, images: Images):
        self._comparison, self._images = comparison, images
        self._codes: dict[tuple[str, ...], str] = {}

    def of(self, candidate: Candidate, block: Block, title: str) -> Job:
        """The job of one candidate in one block."""
        experiment = candidate.experiment.model_copy(update={"seed": block.seed})
        settings = training_settings(experiment)
        modules, tables = training_modules(settings, *_CORE)
        sides = self._images.sides(block, self._comparison.validation)
        depends = {
            **sides,
            "settings": settings,
            "metrics": self._comparison.metrics,
            "data": self._images.digest,
            "code": self._code(modules, tables),
        }
        key = digest(depends)
        paths = {"half": str(self._images.half), "test": str(self._images.test) if block.fold is None else None}
        record = self._comparison.folder / "records" / f"{key}.json"
        document = {**depends, **paths, "record": str(record), "key": key, "modules": modules, "tables": tables}
        return Job(key, title, record, document)

    def trials(self, candidates: Sequence[Candidate], name: str) -> list[Job]:
        """One job a candidate, where there is something to choose."""
        if len(candidates) < 2:
            return []
        return [self.of(one, CHOICE, f"{name}, trial {format_values(one.values)}") for one in candidates]

    def _code(self, modules: Sequence[str], tables: Sequence[str]) -> str:
        which = (*modules, "", *tables)
        if which not in self._codes:
            self._codes[which] = code_version(*modules, tables=tables)
        return self._codes[which]


def format_values(values: Mapping[str, Any]) -> str:
    """Chosen values in short, as in "learning_rate 0.001"."""
    return ", ".join(
        f"{path.rpartition('.')[2]} {f'{value:g}' if isinstance(value, float) else value}"
        for path, value in values.items()
    )
