"""FindRelease: finds the release that the candidate is compared with, if there is one."""

import json
from pathlib import Path

from absl import logging
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter

from anchorage.files import replace_file
from anchorage.release import find_baseline
from anchorage_components.artifacts import BASELINE, BaselineRelease
from anchorage_components.nodes import node


@node
def FindRelease(
    baseline: OutputArtifact[BaselineRelease],
    releases: Parameter[str],
    run_key: Parameter[str] = "",
    expected: Parameter[str] = "",
    code_version: Parameter[str] = "",
):
    """Finds the current release, or the newest one before it that this run did not publish itself.

    Args:
        baseline: output folder for `baseline.json`, see `anchorage.release.find_baseline`.
        releases: path or URI of the folder of releases; need not exist.
        run_key: identity of this run; releases with the same key are skipped.
        expected: identity of the baseline at the start of the run; part of the cache key, otherwise unused.
        code_version: digest of the code; part of the cache key, otherwise unused.
    """
    facts = find_baseline(releases, run_key)
    logging.info("baseline: %s", facts)
    folder = Path(baseline.uri)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / BASELINE, json.dumps(facts, indent=1).encode())
