"""The release that a candidate is compared with."""

from pathlib import Path
from typing import Any

from anchorage.errors import DataError, UsageError
from anchorage.release import manifest as manifests
from anchorage.release.places import find_place, version_address
from anchorage.release.reading import lineage, open_release


def find_baseline(releases: str | Path, run_key: str) -> dict[str, Any]:
    """Find the newest intact release in the lineage that is not from this run.

    The lineage goes from the current release back to the one that it replaced,
    and so on, so it contains no release that was rolled back. Damaged and
    deleted releases are skipped, as `reason` reports.

    Args:
        releases: path or URI of a folder of releases, which can be missing.
        run_key: identity of this run, whose own releases are skipped; "" skips none.

    Returns:
        `version` (None if there is no baseline), `path`, `bundle` (identity of
        its manifest), `first` (whether there are no earlier releases),
        `reason` as a text, and the `evaluation_set` and `metrics` that it was
        published with.
    """
    own: list[int] = []
    skipped: list[str] = []
    place = find_place(releases)
    for version in lineage(place):
        try:
            address = version_address(place.address, version)
            if run_key and manifests.read_manifest(address)["facts"].get("run_key") == run_key:
                own.append(version)
                continue
            release = open_release(place.address, version)
        except (DataError, UsageError) as error:
            skipped.append(f"Release {version} was skipped: {error.message}")
            continue
        newest = "is the newest" if skipped or own else "is current"
        reason = " ".join([*skipped, f"Release {version} {newest}{_describe_conditions(own, skipped)}."])
        return {
            "version": version,
            "path": release.address,
            "bundle": release.manifest["bundle"],
            "first": False,
            "reason": reason,
            "evaluation_set": release.facts.get("evaluation_set"),
            "metrics": release.facts.get("metrics", {}),
            "experiment": release.facts.get("experiment", {}),
        }
    reason = "There is no release yet."
    if skipped:
        reason = "No release is intact."
    if own:
        reason = f"Release {own[0]} is from this run, and there is no intact release before it."
    return {"version": None, "path": None, "bundle": None, "first": not skipped, "reason": " ".join([*skipped, reason])}


def _describe_conditions(own: list[int], skipped: list[str]) -> str:
    conditions = [*(["is intact"] if skipped else []), *(["is not from this run"] if own else [])]
    return f" that {' and '.join(conditions)}" if conditions else ""
