"""The compiled pipeline runs: every task by its command line, a cached repetition, a retraining once items are new."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from spec_runs import Backend

from anchorage_pipeline.cluster.spec import write_spec
from anchorage_pipeline.config import load_experiment

pytestmark = pytest.mark.thorough

CLASSES, EACH, DIM = 24, 8, 16
_EXPERIMENT = """
name = "shop"
seed = 1
[data]
path = "{volume}/data/{{SPAN}}/shop.parquet"
input = "vectors"
[training]
epochs = 0
[trigger]
new_items = 100
[cluster]
volume = "{volume}"
"""


def deliver(folder, span):
    """A delivery of noisy vectors; the classes are those of every delivery."""
    means = np.random.default_rng(0).normal(size=(CLASSES, DIM))
    rows = CLASSES * EACH
    vectors = np.repeat(means, EACH, axis=0) + 0.5 * np.random.default_rng(span).normal(size=(rows, DIM))
    table = {
        "id": [f"{span}-{row}" for row in range(rows)],
        "label": [f"product {row // EACH}" for row in range(rows)],
        "vector": vectors.tolist(),
    }
    (folder / str(span)).mkdir(parents=True)
    parquet.write_table(pa.table(table), folder / str(span) / "shop.parquet")


@pytest.fixture(scope="module")
def backend_and_volume(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    volume = folder / "volume"
    deliver(volume / "data", 9)
    (folder / "shop.toml").write_text(_EXPERIMENT.format(volume=volume))
    write_spec(load_experiment(folder / "shop.toml", is_local=False), folder / "shop.yaml")
    backend = Backend(folder / "shop.yaml", folder / "tasks")
    yield backend, volume
    backend.close()


def states(tasks):
    failed = [f"{name}:\n{task.log[-3000:]}" for name, task in tasks.items() if task.state == "FAILED"]
    return {name: task.state for name, task in tasks.items()}, "\n".join(failed)


def manifest(volume, version):
    return json.loads((volume / f"releases/shop/{version}/manifest.json").read_text(encoding="utf-8"))


def test_first_run_cached_run_and_retraining(backend_and_volume):
    backend, volume = backend_and_volume
    manual = {"trigger": "{}"}  # as `anchorage kubeflow run` starts a run, which asks for no reason
    first, log = states(backend.run(manual, from_nothing={"IdentifyRun"}))
    assert set(first.values()) == {"SUCCEEDED"}, log
    assert (volume / "releases/shop/current").read_text().strip() == "1"
    facts = manifest(volume, 1)["facts"]
    assert facts["verdict"]["state"] == "FIRST"
    assert "trigger" not in facts

    # Nothing is new: only the look at the data is no cached result, and nothing is published.
    again, log = states(backend.run(manual))
    assert {name for name, state in again.items() if state != "CACHED"} == {"IdentifyRun"}, log
    assert not (volume / "releases/shop/2").exists()

    # A scheduled run ends after its first task, green: no items are new.
    tasks = backend.run()
    unneeded, log = states(tasks)
    assert unneeded.pop("IdentifyRun") == "SUCCEEDED", log
    assert "not needed: Release 1 keeps to the limits of [trigger]." in tasks["IdentifyRun"].log
    assert {name for name, state in unneeded.items() if state == "NOT_TRIGGERED"} == {"VectorExampleGen", "FindRelease"}
    assert set(unneeded.values()) == {"NOT_TRIGGERED", "SKIPPED"}

    deliver(volume / "data", 10)
    tasks = backend.run()
    reason = f"{CLASSES * EACH} items are not in release 1; the limit is 100."
    assert f"needed: {reason}" in tasks["IdentifyRun"].log
    retrained, log = states(tasks)
    assert retrained.pop("PublishRelease") in {"SUCCEEDED", "FAILED"}
    assert set(retrained.values()) == {"SUCCEEDED"}, log
    if tasks["PublishRelease"].state == "FAILED":
        assert tasks["PublishRelease"].exit_status == 5
        assert "E_NOT_BLESSED: " in tasks["PublishRelease"].log
        assert "HOLD" in tasks["PublishRelease"].log
        assert (volume / "releases/shop/current").read_text().strip() == "1"
    else:
        facts = manifest(volume, 2)["facts"]
        assert facts["previous"] == 1
        assert facts["verdict"]["state"] == "SHIP"
        assert facts["trigger"] == {"reasons": [reason], "release": 1}
        assert facts["data_version"] != manifest(volume, 1)["facts"]["data_version"]
