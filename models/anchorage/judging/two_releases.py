"""Two releases side by side: the newer one judged anew as a candidate against the older one, by its own gate."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anchorage.errors import UsageError
from anchorage.judging.judge import judge_candidate
from anchorage.judging.settings import TEST, JudgeSettings
from anchorage.retrieval.table import read_table

if TYPE_CHECKING:
    from anchorage.release import Release
    from anchorage.retrieval.table import Embeddings

JUDGED = "embeddings.parquet"  # beside a report: the embeddings it was made from
_KEPT = ("thresholds", "calibration", "untrained", "identity", "reproduce")  # what the older release has no part in


def compare_releases(older: "Release", newer: "Release") -> dict[str, Any]:
    """The newer release's report, with the older one as its baseline.

    Both are measured anew, on the images that both embedded. What decides, the margins and the slices are those of the
    newer release's experiment.

    Args:
        older: the baseline.
        newer: the candidate.

    Returns:
        As `judge_candidate`.

    Raises:
        UsageError: `E_RELEASE_EMBEDDINGS` if a release holds no judged embeddings.
        DataError: if they differ in what they were judged on.
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
            "reason": "It was named to compare with.",
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
    kept = {key: report[key] for key in _KEPT if key in report}
    name = f"{report['experiment']}: release {newer.version} against release {older.version}"
    return {**judged, **kept, "experiment": name}


def _read_judged(release: "Release") -> "Embeddings":
    path = release.path / "report" / JUDGED
    if not path.is_file():
        raise UsageError(
            "E_RELEASE_EMBEDDINGS",
            f"Expected the embeddings that release {release.version} was judged by at {path}. Received: none, "
            "it is of an earlier format. Compare releases that this version of `anchorage run` published",
        )
    return read_table(path, [TEST])
