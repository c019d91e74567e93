"""Comparison of two releases: the newer one is judged as a candidate against the older one."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anchorage.errors import UsageError
from anchorage.judging.judge import judge_candidate
from anchorage.judging.settings import JudgeSettings
from anchorage.retrieval.table import read_table

if TYPE_CHECKING:
    from anchorage.release import Release
    from anchorage.retrieval.table import Embeddings

# In the folder of the report: the evaluated embeddings, and those of the validation classes.
JUDGED, VALIDATED = "embeddings.parquet", "validation.parquet"
_COPIED = ("thresholds", "calibration", "untrained", "identity", "reproduce")  # independent of the older release


def compare_releases(older: "Release", newer: "Release") -> dict[str, Any]:
    """Create the report of the newer release with the older one as its baseline.

    Both are evaluated again on their common images, with the metrics, margins and slices of the newer release's
    experiment.

    Args:
        older: the baseline.
        newer: the candidate.

    Returns:
        The report, see `judge_candidate`.

    Raises:
        UsageError: `E_RELEASE_EMBEDDINGS` if a release does not contain the evaluated embeddings.
        DataError: if the releases have no common evaluation images.
    """
    report = json.loads((newer.path / "report/report.json").read_text(encoding="utf-8"))
    minimum = {name: entry["minimum"] for name, entry in report["metrics"].items() if entry["minimum"] is not None}
    settings = replace(
        JudgeSettings.from_experiment(report["facts"].get("experiment", {})),
        metrics=list(report["metrics"]),
        primary=report["primary"],
        minimum=minimum,
        clustering="clustering" in report,
        force="",
    )
    judged = judge_candidate(
        _read_judged(newer),
        settings,
        baseline=_read_judged(older),
        baseline_facts={
            "version": older.version,
            "reason": "It was chosen for comparison.",
            "first": False,
            "evaluation_set": older.facts.get("evaluation_set"),
        },
        context={
            key: report[key]
            for key in ("facts", "dataset", "index", "audit", "training", "search", "spread")
            if key in report
        },
        index_trial=report.get("index_trial"),
    )
    copied = {key: report[key] for key in _COPIED if key in report}
    name = f"{report['experiment']}: release {newer.version} against release {older.version}"
    return {**judged, **copied, "experiment": name}


def _read_judged(release: "Release") -> "Embeddings":
    path = release.path / "report" / JUDGED
    if not path.is_file():
        raise UsageError(
            "E_RELEASE_EMBEDDINGS",
            f"Expected the evaluated embeddings of release {release.version} at {path}. Received: no such file, since "
            "the release has an earlier format. Compare releases published by this version of `anchorage run`",
        )
    return read_table(path)
