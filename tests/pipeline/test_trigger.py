"""Whether a scheduled run is needed: each limit of `[trigger]`, and what the next report says."""

import json
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from databases import fresh_database
from PIL import Image
from vector_releases import publish_vectors, unit_vectors

from anchorage.judging.drift import NAMES
from anchorage.release.items import Item, ItemStore, default_store
from anchorage.release.query_samples import QueryStore, SampledQuery
from anchorage_pipeline import api, drift, trigger
from anchorage_pipeline.cli import main
from anchorage_pipeline.config import load_experiment
from anchorage_pipeline.drift import examine
from anchorage_pipeline.identity import fingerprint_run

_NUMBERS = count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """URL of the store of the service, and the line of `[trigger]` that names it; none for the file beside releases."""
    if request.param == "sqlite":
        return default_store(tmp_path / "releases"), ""
    url = fresh_database(request.getfixturevalue("postgresql_server"), f"store-{next(_NUMBERS)}").replace(":@", "@")
    return url, f'\nstore = "{url}"'


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Writes an experiment file with these limits, for a release of vectors and a folder of six images."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        path = tmp_path / f"images/class {number % 3}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(path)

    def write(limits):
        text = '[data]\npath = "images"\n[release]\nfolder = "releases"\n[training]\nepochs = 0\n[trigger]\n'
        (tmp_path / "toy.toml").write_text(f'name = "toy"\n{text}{limits}\n')
        return load_experiment("toy.toml")

    return write


def sample(release, vectors, start=0.0, url=None):
    store = QueryStore(url or default_store(release.path.parent))
    store.write(
        [
            SampledQuery(start + place, 1, release.model_fingerprint, vector, 0.1, None)
            for place, vector in enumerate(vectors)
        ]
    )
    store.close()


def shifted(count):
    vectors = 0.2 * unit_vectors(count, seed=6) + np.eye(8, dtype=np.float32)[0]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_missing_release_is_a_reason(experiment):
    need = trigger.find_need(experiment("max_age_days = 1"))
    assert need.reasons == ["There is no usable release: E_RELEASE_MISSING."]


def test_the_age_is_a_reason_from_the_limit_on(experiment, tmp_path, monkeypatch):
    release = publish_vectors(tmp_path, unit_vectors(60))
    assert not trigger.find_need(experiment("max_age_days = 1")).reasons
    manifest = {**release.manifest, "created": "2020-01-01T00:00:00+00:00"}
    monkeypatch.setattr("anchorage.judging.need.open_release", lambda path: replace(release, manifest=manifest))
    (reason,) = trigger.find_need(experiment("max_age_days = 1")).reasons
    assert reason.startswith("Release 1 is ")
    assert reason.endswith(" days old; the limit is 1.")


def test_a_run_that_would_make_the_release_again_is_not_needed(experiment, tmp_path, capsys):
    limits = 'drift = "evaluation"'
    release = publish_vectors(tmp_path, unit_vectors(600), facts={"run_key": fingerprint_run(experiment(limits)).run})
    sample(release, shifted(500))
    assert not trigger.find_need(experiment(limits)).is_met
    assert main(["run", "toy.toml", "--if-needed", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["needed"], len(result["reasons"])) == (False, 1)
    assert main(["run", "toy.toml", "--if-needed"]) == 0
    result = capsys.readouterr().out
    assert "not needed: Drift in one window" in result
    assert "release 1 was made from the same data and settings" in result
    (tmp_path / "images/class 0/new.png").write_bytes((tmp_path / "images/class 0/0.png").read_bytes())
    assert trigger.find_need(experiment(limits)).is_met


def test_new_images_and_new_items_of_the_service_count_together(experiment, tmp_path, database):
    url, named = database
    publish_vectors(tmp_path, unit_vectors(60))
    vector = np.ones(8, np.float32)
    items = [Item("new", "label", vector=vector), Item("item 3 ü", "label", vector=vector), Item("gone", deleted=True)]
    ItemStore(url).write(items)
    (reason,) = trigger.find_need(experiment("new_items = 7" + named)).reasons  # six images and one item
    assert reason == "7 items are not in release 1; the limit is 7."
    assert not trigger.find_need(experiment("new_items = 8" + named)).reasons


def test_drift_is_a_reason_and_too_few_queries_are_none(experiment, tmp_path, database):
    url, named = database
    release = publish_vectors(tmp_path, unit_vectors(600))
    limits = experiment('drift = "evaluation"' + named)
    assert not trigger.find_need(limits).reasons
    sample(release, shifted(499), url=url)
    assert not trigger.find_need(limits).reasons
    sample(release, shifted(500), url=url)
    need = trigger.find_need(limits)
    assert need.reasons[0].startswith("Drift in one window")
    facts = need.to_facts()
    assert (facts["release"], facts["drift"]["drifted"], facts["drift"]["windows"]) == (1, 1, 1)

    # the next report: a release that this run made, with queries that are like its gallery again
    released = replace(release, manifest={**release.manifest, "facts": {"trigger": facts}})
    sample(release, unit_vectors(500, seed=9), start=1000.0, url=url)
    from anchorage.judging.drift import DriftSettings

    before = examine(released, DriftSettings(windows=1), store=url)["before"]
    assert before["reasons"] == need.reasons
    assert before["sentences"][0] == "The drift has ended since the retraining."
    assert before["sentences"][1].startswith("The median distance of the nearest item was ")
    assert before["sentences"][-1] == "Windows beyond the limit: 1 of 1 before, 0 of 1 now."


def test_the_next_report_distinguishes_drift_that_ended_from_drift_that_continues():
    statistics = {"distance": 0.5146, "unknown": None}
    now = {
        "drift": True,
        "tests": NAMES,
        "windows": [{"drift": True, "drifted": ["hubs"], "statistics": {"distance": 0.2491, "unknown": None}}],
    }
    before = {"statistics": statistics, "tests": ["distance", "hubs"], "drifted": 1, "windows": 1}
    assert drift._compared(before, now) == [
        "Since the retraining, there is no more drift by distance of the nearest item; that by items found goes on.",
        "The median distance of the nearest item was 0.515 before, and is 0.249 now.",
        "Windows beyond the limit: 1 of 1 before, 1 of 1 now.",
    ]
    assert drift._compared({**before, "tests": ["hubs"]}, now)[0] == "The drift goes on: the retraining did not end it."


def test_the_command_runs_only_if_needed_and_passes_the_reasons_on(experiment, tmp_path, monkeypatch, capsys):
    experiment("new_items = 6")
    publish_vectors(tmp_path, unit_vectors(60))
    started = []

    def run(experiment, **options):
        started.append(options["trigger"])
        raise KeyboardInterrupt  # far enough

    monkeypatch.setattr(api, "run", run)
    assert main(["run", "toy.toml", "--if-needed", "--set", "trigger.new_items=7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"needed": False, "release": 1, "reasons": []}
    assert main(["run", "toy.toml", "--if-needed"]) == 4
    assert "needed   6 items are not in release 1" in capsys.readouterr().out
    assert started == [{"reasons": ["6 items are not in release 1; the limit is 6."], "release": 1}]


def test_without_limits_there_is_nothing_to_ask(experiment, capsys):
    experiment("")
    assert main(["run", "toy.toml", "--if-needed"]) == 2
    assert "E_TRIGGER_MISSING" in capsys.readouterr().err
