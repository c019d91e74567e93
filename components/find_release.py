"""FindRelease: the release that a candidate is compared with, or that there is none."""

import json
from pathlib import Path
from typing import Any

from absl import logging
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from components.artifacts import BASELINE, BaselineRelease
from models.files import replace_file
from models.release import current_version, open_release
from models.release.manifest import read_manifest


@component
def FindRelease(
    baseline: OutputArtifact[BaselineRelease],
    releases: Parameter[str],
    store_id: Parameter[str] = "",
    run_key: Parameter[str] = "",
    code_version: Parameter[str] = "",
):
    """Finds the newest release in use that did not come from this very run.

    Starts at the current release and goes back from each release to the one it
    replaced, so that a release that was rolled back is no baseline.

    Args:
        baseline: gets `baseline.json`: `version` (null if there is none),
            `path`, `first` (whether nothing was published before), `reason` in
            words, and the `evaluation_set` and `metrics` it was published
            with.
        releases: folder of releases; need not exist yet.
        store_id: identity of that folder; part of the cache key, not used
            otherwise.
        run_key: identity of this run; releases with the same one are passed
            over.
        code_version: digest of the code; part of the cache key, not used
            otherwise.

    Raises:
        DataError: if the release that should be the baseline is damaged: to
            go on without it would let any candidate pass.
    """
    found = find_baseline(Path(releases), run_key)
    logging.info("baseline: %s", found)
    folder = Path(baseline.uri)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / BASELINE, json.dumps(found, indent=1).encode())


def find_baseline(releases: Path, run_key: str) -> dict[str, Any]:
    """What `baseline.json` says."""
    version = current_version(releases)
    if version is None:
        return {"version": None, "path": None, "first": True, "reason": "Nothing was published yet."}
    reason = f"Release {version} is current."
    while (facts := read_manifest(releases / str(version))["facts"]).get("run_key") == run_key:
        earlier = facts["previous"]
        if earlier is None or not (releases / str(earlier)).is_dir():
            gone = (
                "it replaced none" if earlier is None else f"release {earlier}, which it replaced, is no longer there"
            )
            reason = f"{reason} It came from this very run, and {gone}."
            # A run that is done again has nothing before it, unless what was before it is gone.
            return {"version": None, "path": None, "first": earlier is None, "reason": reason}
        version = earlier
        reason = f"Release {version} is the newest that did not come from this very run."
    release = open_release(releases, version)
    return {
        "version": version,
        "path": str(release.path),
        "first": False,
        "reason": reason,
        "evaluation_set": facts.get("evaluation_set"),
        "metrics": facts.get("metrics", {}),
    }
