"""FindRelease: the release that a candidate is compared with, or that there is none."""

import json
from pathlib import Path

from absl import logging
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from anchorage.files import replace_file
from anchorage.release import find_baseline
from anchorage_components.artifacts import BASELINE, BaselineRelease


@component
def FindRelease(
    baseline: OutputArtifact[BaselineRelease],
    releases: Parameter[str],
    run_key: Parameter[str] = "",
    expected: Parameter[str] = "",
    code_version: Parameter[str] = "",
):
    """Finds the newest release in use that did not come from this very run.

    Args:
        baseline: gets `baseline.json`: see `anchorage.release.find_baseline`.
        releases: folder of releases; need not exist yet.
        run_key: identity of this run; releases with the same one are passed
            over.
        expected: identity of the baseline as found when the run started; part
            of the cache key, not used otherwise.
        code_version: digest of the code; part of the cache key, not used
            otherwise.
    """
    found = find_baseline(Path(releases), run_key)
    logging.info("baseline: %s", found)
    folder = Path(baseline.uri)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / BASELINE, json.dumps(found, indent=1).encode())
