"""Two releases side by side, from nothing but what the releases hold."""

import json

import pytest
from tables import clusters

from anchorage.errors import UsageError
from anchorage.judging.judge import judge_candidate
from anchorage.judging.settings import JudgeSettings
from anchorage.judging.two_releases import JUDGED, compare_releases
from anchorage.release import Release
from anchorage.retrieval.table import write_table

EVALUATION = {"max_drop": 0.02, "slices": ["class_size"], "resamples": 500, "slice_drops": {"": 0.9}}


@pytest.fixture
def release(tmp_path):
    """Makes a release of a model with so much noise: the report and its embeddings."""

    def make(version, noise):
        table = clusters(noise, classes=10)
        report = judge_candidate(
            table,
            JudgeSettings(metrics=["recall@1"], minimum={"recall@1": 0.1}, max_drop=0.5),
            baseline_facts={"version": None, "reason": "Nothing was published yet."},
            validation=clusters(noise, classes=10, split="val"),
            context={"facts": {"experiment": {"name": "toy", "seed": 3, "evaluation": EVALUATION}}},
        )
        folder = tmp_path / str(version) / "report"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report))
        write_table(folder / JUDGED, table)
        facts = {"evaluation_set": report["evaluation_set"]}
        return Release(folder.parent, {"version": version, "facts": facts}), report

    return make


def test_the_newer_is_judged_against_the_older_by_its_own_gate(release):
    (worse, before), (better, after) = release(3, 2.5), release(5, 1.0)
    found = compare_releases(worse, better)
    assert found["experiment"] == "toy: release 5 against release 3"
    assert (found["verdict"]["state"], found["verdict"]["case"]) == ("SHIP", "not_worse")
    assert found["baseline"]["name"] == "release 3"
    entry = found["metrics"]["map@r"]
    assert entry["value"] == pytest.approx(after["metrics"]["map@r"]["value"])
    assert entry["baseline"] == pytest.approx(before["metrics"]["map@r"]["value"])
    assert found["comparison"]["margin"] == 0.02
    assert found["comparison"]["resamples"] == 500
    assert [entry["name"] for entry in found["comparison"]["slices"]] == ["class_size=5"]
    assert found["metrics"]["recall@1"]["minimum"] == 0.1
    assert found["calibration"] == after["calibration"]
    assert {"changed", "compatibility"} <= set(found)
    assert compare_releases(better, worse)["verdict"]["case"] == "worse"


def test_a_release_without_its_embeddings_is_refused(release):
    (older, _), (newer, _) = release(1, 1.0), release(2, 1.0)
    (older.path / "report" / JUDGED).unlink()
    with pytest.raises(UsageError, match=r"E_RELEASE_EMBEDDINGS: .* release 1 .*/1/report/embeddings\.parquet"):
        compare_releases(older, newer)
