import json

from anchorage_components.artifacts import BaselineRelease
from anchorage_components.find_release import FindRelease


def test_nothing_published_yet(tmp_path):
    artifact = BaselineRelease()
    artifact.uri = str(tmp_path / "baseline")
    FindRelease.test_call(baseline=artifact, releases=str(tmp_path / "releases"), run_key="a")
    found = json.loads((tmp_path / "baseline/baseline.json").read_text())
    assert (found["version"], found["path"], found["first"]) == (None, None, True)
    assert found["reason"] == "There is no release yet."
