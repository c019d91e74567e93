"""The evaluated candidates of runs and the plain trainings, read from their folders."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anchorage.errors import AnchorageError
from anchorage.release.manifest import NAME
from anchorage.storage import is_remote, join, read_bytes

_REPORTS = "artifacts/EvaluateRetrieval/report/*/report.json"
_RELEASES = "artifacts/PublishRelease/release/*/release.json"


@dataclass(frozen=True)
class Candidate:
    """A model that was evaluated.

    Args:
        created: date and time of the evaluation in UTC, ISO 8601.
        experiment: name of the experiment.
        kind: the command, "run" or "train".
        verdict: state of the gate, such as "FIRST" or "HOLD"; "" for `train`, which has no gate.
        reasons: reasons of the verdict.
        metrics: the metrics in [0, 1], those in the headline of the report first.
        headline: the names of those.
        command: the command line, if it is known.
        settings: the experiment file with its defaults, if it is known.
        release: path or URI of its release; None if there is none, or no longer.
        report: page of the report, or the file with the metrics.
        fault: why the files cannot be read; "" if they can.
    """

    created: str
    experiment: str
    kind: str
    report: Path
    verdict: str = ""
    reasons: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    headline: list[str] = field(default_factory=list)
    command: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    release: str | None = None
    fault: str = ""


def list_candidates(folder: Path) -> list[Candidate]:
    """List what was evaluated below a folder of runs, or in the folder of one experiment, oldest first.

    A cached evaluation is listed once. Files that cannot be read are listed with their fault.
    """
    single = (folder / "artifacts").is_dir() or (folder / "train").is_dir()
    experiments = [folder] if single else sorted(path for path in folder.iterdir() if path.is_dir())
    found = [candidate for experiment in experiments for candidate in _of_experiment(experiment)]
    return sorted(found, key=lambda candidate: (candidate.created, str(candidate.report)))


def _of_experiment(folder: Path) -> Iterator[Candidate]:
    releases = sorted(_published(folder))
    for path in folder.glob(_REPORTS):
        try:
            yield _read_report(path, releases)
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Candidate(_changed(path), folder.name, "run", path, fault=f"cannot be read: {error!r}")
    if (path := folder / "train/metrics.json").is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))["values"]
            yield Candidate(_changed(path), folder.name, "train", path, metrics=values, headline=list(values)[:4])
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Candidate(_changed(path), folder.name, "train", path, fault=f"cannot be read: {error!r}")


def _read_report(path: Path, releases: list[tuple[str, str, str]]) -> Candidate:
    report = json.loads(path.read_text(encoding="utf-8"))
    facts, created = report["facts"], report["created"]
    names = [*report["headline"], *(name for name in report["metrics"] if name not in report["headline"])]
    # The first release of the same settings and data that was published after the evaluation.
    own = (place for when, key, place in releases if key == facts.get("run_key") and when >= created)
    return Candidate(
        created,
        report["experiment"],
        "run",
        path.with_name("report.html"),
        verdict=report["verdict"]["state"],
        reasons=report["verdict"]["reasons"],
        metrics={name: report["metrics"][name]["value"] for name in names},
        headline=report["headline"],
        command=facts.get("command", ""),
        settings=facts.get("experiment", {}),
        release=next(own, None) if report["verdict"]["blessed"] else None,
    )


def _published(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield date, key of the run, and address of each release that the runs of an experiment published."""
    for path in folder.glob(_RELEASES):
        try:
            release = json.loads(path.read_text(encoding="utf-8"))["path"]
            manifest = json.loads(_read_manifest(release))
            yield manifest["created"], manifest["facts"]["run_key"], release
        except (AnchorageError, OSError, ValueError, KeyError, TypeError):
            continue  # the release was removed


def _read_manifest(release: str) -> bytes:
    return read_bytes(join(release, NAME)) if is_remote(release) else Path(release, NAME).read_bytes()


def _changed(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
