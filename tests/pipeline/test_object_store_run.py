"""A whole run with data, artifacts, checkpoints and releases in an object store: killed, resumed elsewhere, cached."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from vector_releases import publish_vectors, unit_vectors

from anchorage import storage
from anchorage.release import open_release
from anchorage_pipeline import api
from anchorage_pipeline.cli import main
from anchorage_pipeline.config import load_experiment
from anchorage_pipeline.trigger import find_need

CLASSES, EACH, DIM, SIGNAL = 24, 8, 24, 6

SETTINGS = """
name = "shop"
seed = 1
runs = "{base}/runs"
[data]
path = "{base}/data/shop.parquet"
[training]
epochs = 3
loggers = []
[evaluation]
resamples = 100
force = "a test"
[release]
folder = "{base}/releases"
"""


@pytest.fixture
def table(tmp_path):
    """Classes that differ in six directions of 24."""
    random = np.random.default_rng(0)
    means = random.normal(size=(CLASSES, SIGNAL)) @ random.normal(size=(SIGNAL, DIM))
    vectors = np.repeat(means, EACH, axis=0) + 2.5 * random.normal(size=(CLASSES * EACH, DIM))
    columns = {
        "id": [f"sku-{n}" for n in range(len(vectors))],
        "label": [f"p {n // EACH}" for n in range(len(vectors))],
    }
    path = tmp_path / "disk/data/shop.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pa.table({**columns, "vector": vectors.astype("float32").tolist()}), path)
    return path


_KILLED = """
import os, signal
from anchorage.training.remote_checkpoints import RemoteCheckpoints
from anchorage_pipeline import api

save = RemoteCheckpoints.save

def die_after_saving(self, learner, progress):
    save(self, learner, progress)
    if progress.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

RemoteCheckpoints.save = die_after_saving
api.run("shop.toml")
"""


@pytest.mark.thorough
def test_a_run_on_a_bucket_equals_one_on_disk(either_bucket, table, tmp_path, monkeypatch, capsys):
    bucket = either_bucket
    storage.write_bytes(storage.join(bucket, "data/shop.parquet"), table.read_bytes())
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there, table.parents[1]):
        folder.mkdir(exist_ok=True)
        base = table.parents[1] if folder == table.parents[1] else bucket
        (folder / "shop.toml").write_text(SETTINGS.format(base=base), encoding="utf-8")

    # killed on one machine after its second checkpoint, which is in the bucket ...
    program, machine = [sys.executable, "-c", _KILLED], {**os.environ, "TMPDIR": str(here)}
    done = subprocess.run(program, cwd=here, env=machine, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    names = storage.list_files(storage.join(bucket, "runs/shop"))
    assert sum(name.startswith("checkpoints/") and name.endswith("/state.json") for name in names) == 2
    assert not [name for name in names if name.startswith("artifacts/Trainer/")]

    # ... it goes on on another, which has the metadata, as from a server, and for the rest nothing but the bucket
    shutil.copytree(here / "runs", there / "runs")
    monkeypatch.chdir(there)
    monkeypatch.setenv("ANCHORAGE_CACHE", str(tmp_path / "other cache"))
    capsys.readouterr()
    remote = api.run("shop.toml")
    assert f"resuming after step 10 of 30, from {bucket}/runs/shop/checkpoints/" in capsys.readouterr().out
    assert remote.nodes["PackExamples"] == "CACHED"
    assert remote.nodes["Trainer"] == remote.nodes["PublishRelease"] == "COMPLETE"
    names = storage.list_files(storage.join(bucket, "runs/shop"))
    assert not [name for name in names if name.startswith("checkpoints/")]
    assert not list(there.glob("runs/shop/artifacts"))
    blessings = {name.split("/")[-1] for name in names if name.startswith("artifacts/EvaluateRetrieval/blessing/")}
    assert blessings == {"BLESSED"}
    assert remote.release == storage.join(bucket, "releases/1")
    assert open_release(remote.release).facts["metrics"] == remote.metrics

    # nothing changed: all is cached, and nothing is copied
    with monkeypatch.context() as patch:
        patch.setattr("anchorage.storage.folders.fetch_object", None)
        again = api.run("shop.toml")
    assert set(again.nodes.values()) == {"CACHED"}
    assert again.metrics == remote.metrics

    capsys.readouterr()
    assert main(["runs", f"{bucket}/runs"]) == 0
    assert "release 1" in capsys.readouterr().out
    monkeypatch.chdir(table.parents[1])
    on_disk = api.run("shop.toml")
    assert remote.metrics == on_disk.metrics
    assert remote.verdict == on_disk.verdict


@pytest.mark.parametrize("setting", ["runs", "data.path", "release.folder"])
@pytest.mark.parametrize(
    ("change", "place", "code"),
    [
        ({}, "s3://no-such-bucket/shop", "E_BUCKET_MISSING"),
        ({}, "gs://no-such-bucket/shop", "E_BUCKET_MISSING"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "{bucket}/shop", "E_OBJECT_DENIED"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "{bucket}/shop", "E_OBJECT_CREDENTIALS"),
    ],
)
def test_unreachable_places_are_reported_before_anything_starts(
    make_bucket, tmp_path, monkeypatch, capsys, setting, change, place, code
):
    make_bucket("gs")
    bucket = make_bucket("s3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in change.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "shop.toml").write_text('name = "shop"\n[data]\npath = "photos"\n', encoding="utf-8")
    place = place.format(bucket=bucket)
    for command in ("check", "run"):
        assert main([command, "shop.toml", "--set", f"{setting}={place}"]) == 2
        assert capsys.readouterr().err.startswith(f"anchorage: {code}: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("setting", ["runs", "data.path"])
def test_stores_of_another_kind_are_refused(tmp_path, monkeypatch, capsys, setting):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.toml").write_text('name = "shop"\n[data]\npath = "photos"\n', encoding="utf-8")
    assert main(["check", "shop.toml", "--set", f"{setting}=hdfs://things/shop"]) == 2
    assert capsys.readouterr().err.startswith("anchorage: E_ADDRESS: ")


def test_init_writes_a_file_for_data_in_a_bucket(bucket, table, tmp_path, monkeypatch):
    address = storage.join(bucket, "data/shop.parquet")
    storage.write_bytes(address, table.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["init", address, "--output", "shop.toml"]) == 0
    text = Path("shop.toml").read_text(encoding="utf-8")
    assert f'path = "{address}"' in text
    assert "relative to the current folder" not in text
    assert load_experiment("shop.toml").encoder.name == "head"


def test_whether_a_run_is_needed_is_asked_without_a_copy_of_the_images(bucket, tmp_path, monkeypatch):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        storage.write_bytes(storage.join(bucket, "photos", name), b"never read")
    publish_vectors(tmp_path, unit_vectors(60))
    text = f'name = "shop"\n[data]\npath = "{bucket}/photos"\n[release]\nfolder = "{tmp_path}/releases"\n[trigger]\n'
    (tmp_path / "shop.toml").write_text(f"{text}new_items = 3", encoding="utf-8")
    monkeypatch.setattr("anchorage.storage.folders.fetch_object", None)
    need = find_need(load_experiment(tmp_path / "shop.toml"))
    assert need.reasons == ["3 items are not in release 1; the limit is 3."]
