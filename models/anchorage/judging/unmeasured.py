"""The report on a candidate that cannot be evaluated, because no two images have the same label."""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.judging.identity import describe_identity
from anchorage.judging.judge import FORMAT, identify_set, reproduction
from anchorage.judging.settings import TEST, VALIDATION, JudgeSettings

if TYPE_CHECKING:
    from anchorage.retrieval.table import Embeddings

_WHY = f"no two images of split {TEST!r} have the same label"


def is_measurable(candidate: "Embeddings") -> bool:
    """Return whether a class has at least two images."""
    return len(np.unique(candidate.labels)) < len(candidate)


def report_unmeasured(
    candidate: "Embeddings", settings: JudgeSettings, *, baseline_facts: Mapping[str, Any], context: Mapping[str, Any]
) -> dict[str, Any]:
    """Create a report without metrics; its verdict is HOLD if the current release was evaluated.

    Args:
        candidate: embeddings of the evaluation split.
        settings: settings of the gate.
        baseline_facts: as for `judge_candidate`, with the `metrics` of the release.
        context: see there.
    """
    version = baseline_facts.get("version")
    reasons = [f"Nothing could be measured: {_WHY}. Label some images to learn how good the search is."]
    state, case = "FIRST", "first_run"
    if version is not None and baseline_facts.get("metrics"):
        state, case = "HOLD", "unmeasured"
        reasons.append(f"Release {version} was measured; nothing shows that this model is as good.")
        if settings.force:
            state, case = "FORCED", "forced"
            reasons.insert(0, f"Published by force, against the gate: {settings.force.rstrip('.')}.")
    elif version is not None:
        state, case = "SHIP", "unmeasured"
        reasons.append(f"Release {version} was not measured either.")
    facts = context.get("facts", {})
    report = {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "experiment": str(facts.get("experiment", {}).get("name", "unnamed experiment")),
        "verdict": {"state": state, "case": case, "blessed": state != "HOLD", "reasons": reasons},
        "primary": settings.primary,
        "headline": [],
        "split": TEST,
        "counts": {
            "queries": 0,
            "skipped": len(candidate),
            "gallery": int(np.sum(candidate.roles != "query")),
            "classes": 0,
            "images": len(candidate),
            "distance": "cosine similarity",
        },
        "evaluation_set": identify_set(candidate),
        "metrics": {},
        "baseline": {"name": None, "version": version, "reason": str(baseline_facts.get("reason", ""))},
        "classes": [],
        "thresholds": {"split": VALIDATION, "reason": _WHY},
        "calibration": {"split": VALIDATION, "reason": _WHY},
        "facts": dict(facts),
        "reproduce": reproduction(context),
        **{key: context[key] for key in ("dataset", "index", "audit", "training") if context.get(key)},
    }
    identity = describe_identity(report, context, candidate.dimension)
    return {**report, "identity": {**identity, "limits": [reasons[0], *facts.get("limits", [])]}}
