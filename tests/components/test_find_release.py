import json
import shutil

import pytest

from components.artifacts import BaselineRelease
from components.find_release import FindRelease, find_baseline
from models.errors import DataError
from models.release import fingerprint_model, publish_release, roll_back


@pytest.fixture
def publish(tmp_path):
    """Publishes a release of a pretended model; the component never opens one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "index").mkdir()
    (tmp_path / "model/saved_model.pb").write_bytes(b"graph")
    facts = {"model_fingerprint": fingerprint_model(tmp_path / "model")}
    (tmp_path / "index/index.json").write_text(json.dumps(facts))

    def call(run_key):
        return publish_release(
            tmp_path / "releases",
            model_folder=tmp_path / "model",
            index_folder=tmp_path / "index",
            files={"gallery.parquet": b"ids"},
            facts={"run_key": run_key, "evaluation_set": f"set of {run_key}", "metrics": {"map@r": 0.5}},
        )

    return call


def test_nothing_published_yet(tmp_path):
    artifact = BaselineRelease()
    artifact.uri = str(tmp_path / "baseline")
    FindRelease.test_call(baseline=artifact, releases=str(tmp_path / "releases"), run_key="a")
    found = json.loads((tmp_path / "baseline/baseline.json").read_text())
    assert found == {"version": None, "path": None, "first": True, "reason": "Nothing was published yet."}


def test_current_release_of_another_run(publish, tmp_path):
    publish("a")
    publish("b")
    found = find_baseline(tmp_path / "releases", "c")
    assert found["version"] == 2
    assert found["path"] == str(tmp_path / "releases/2")
    assert found["evaluation_set"] == "set of b"
    assert found["metrics"] == {"map@r": 0.5}


def test_releases_of_this_run_are_passed_over(publish, tmp_path):
    for run_key in ("a", "b", "b"):
        publish(run_key)
    found = find_baseline(tmp_path / "releases", "b")
    assert found["version"] == 1
    assert found["reason"] == "Release 1 is the newest that did not come from this very run."


def test_release_that_was_rolled_back_is_no_baseline(publish, tmp_path):
    publish("a")
    publish("b")
    roll_back(tmp_path / "releases")
    assert find_baseline(tmp_path / "releases", "c")["version"] == 1


def test_only_releases_of_this_run(publish, tmp_path):
    publish("a")
    found = find_baseline(tmp_path / "releases", "a")
    assert found["version"] is None
    assert found["reason"] == "Release 1 is current. It came from this very run, and it replaced none."


def test_release_before_this_run_was_removed(publish, tmp_path):
    publish("a")
    publish("b")
    shutil.rmtree(tmp_path / "releases/1")
    found = find_baseline(tmp_path / "releases", "b")
    assert found["version"] is None
    assert "release 1, which it replaced, is no longer there" in found["reason"]


def test_damaged_baseline_stops_the_run(publish, tmp_path):
    publish("a")
    (tmp_path / "releases/1/saved_model.pb").write_bytes(b"grapf")
    with pytest.raises(DataError, match="E_RELEASE_DAMAGED"):
        find_baseline(tmp_path / "releases", "b")
