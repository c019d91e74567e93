"""The release that a candidate is compared with."""

from pathlib import Path
from typing import Any

from anchorage.errors import AnchorageError
from anchorage.release import manifest as manifests
from anchorage.release.reading import lineage, open_release


def find_baseline(releases: Path, run_key: str) -> dict[str, Any]:
    """The newest intact release in use that did not come from this very run.

    Starts at the current release and goes back from each release to the one it
    replaced, so that a release that was rolled back is no baseline. A damaged
    or deleted one is passed over, which `reason` says.

    Args:
        releases: folder of releases; need not exist yet.
        run_key: identity of this run; releases with the same one are passed
            over.

    Returns:
        `version` (None if there is no baseline), `path`, `bundle` (identity of
        its manifest), `first` (whether nothing was published before),
        `reason` in words, and the `evaluation_set` and `metrics` it was
        published with.
    """
    own: list[int] = []
    lost: list[str] = []
    for version in lineage(releases):
        try:
            if manifests.read_manifest(releases / str(version))["facts"].get("run_key") == run_key:
                own.append(version)
                continue
            release = open_release(releases, version)
        except AnchorageError as error:
            lost.append(f"Release {version} was passed over: {error.message}")
            continue
        newest = "is the newest" if lost or own else "is current"
        reason = " ".join([*lost, f"Release {version} {newest}{_that(own, lost)}."])
        return {
            "version": version,
            "path": str(release.path),
            "bundle": release.manifest["bundle"],
            "first": False,
            "reason": reason,
            "evaluation_set": release.facts.get("evaluation_set"),
            "metrics": release.facts.get("metrics", {}),
            "experiment": release.facts.get("experiment", {}),
        }
    reason = "Nothing was published yet."
    if lost:
        reason = "No release is intact."
    if own:
        reason = f"Release {own[0]} came from this very run, and there is no intact one before it."
    return {"version": None, "path": None, "bundle": None, "first": not lost, "reason": " ".join([*lost, reason])}


def _that(own: list[int], lost: list[str]) -> str:
    marks = [*(["is intact"] if lost else []), *(["did not come from this very run"] if own else [])]
    return f" that {' and '.join(marks)}" if marks else ""
