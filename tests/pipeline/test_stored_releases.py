"""Commands and the service on releases in an object store: the same answers as on a disk."""

import json
import time

import pytest
from releases import draw_images, publish_tiny
from services import WITH_KEY, running

from anchorage import storage
from anchorage.release import current_version, list_releases, open_release, publish_release, roll_back, stored
from anchorage_pipeline.cli import main
from anchorage_pipeline.config import load_experiment
from anchorage_pipeline.places import local_places

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def images():
    return draw_images()


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory, images):
    """A folder with two releases."""
    folder = tmp_path_factory.mktemp("on_disk")
    for gain in (1.0, 2.0):
        publish_tiny(folder, images, gain=gain)
    return folder / "releases"


def publish_again(on_disk, version, releases):
    """Publish the files of a release elsewhere."""
    release = open_release(on_disk, version)
    parts = ("gallery.parquet", "thresholds.json", "report")
    files = {name: release.path / name for name in parts}
    model = release.path.parent.parent / f"made-{float(version)}-{version - 1}/model"
    facts = {"name": "tiny", "metrics": release.facts["metrics"]}
    return publish_release(releases, model_folder=model, index_folder=release.index_folder, files=files, facts=facts)


@pytest.fixture
def releases(bucket, images, on_disk, tmp_path, monkeypatch):
    """The same two releases in the store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "query.png").write_bytes(images[0])
    for version in (1, 2):
        assert publish_again(on_disk, version, f"{bucket}/tiny") == version
    return f"{bucket}/tiny"


def answer(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.02)


def test_commands_take_releases_in_a_bucket(releases, on_disk, tmp_path, capsys):
    found = answer(capsys, "search", "query.png", "--release", releases)
    assert found["release"] == f"{releases}/2"
    assert found["queries"][0]["results"]
    assert found["queries"] == answer(capsys, "search", "query.png", "--release", str(on_disk))["queries"]

    listed = answer(capsys, "releases", "--release", releases)
    assert listed["folder"] == releases
    assert [(line["version"], line["current"]) for line in listed["releases"]] == [(1, False), (2, True)]
    assert answer(capsys, "releases", "rollback", "--release", releases) == {"folder": releases, "current": 1}
    assert current_version(releases) == 1
    assert answer(capsys, "search", "query.png", "--release", releases)["version"] == 1
    page = answer(capsys, "report", "2", "--release", releases)["report"]
    assert page.startswith(str(tmp_path / "cache"))

    storage.write_bytes(f"{releases}/1/saved_model.pb", b"damaged")
    assert main(["search", "query.png", "--release", releases]) == 3
    assert f"E_RELEASE_DAMAGED: Expected the release in {releases}/1" in capsys.readouterr().err


def test_a_service_follows_the_pointer_and_keeps_its_items_here(releases, images, tmp_path):
    with running(releases, watch_seconds=0.05) as client:
        assert client.get("/v1/release").json()["version"] == 2
        items = tmp_path / "data/anchorage" / releases.removeprefix("s3://") / "items.sqlite"
        assert items.is_file()
        roll_back(releases, 1)
        wait_for(lambda: client.get("/v1/release").json()["version"] == 1)
        found = client.post("/v1/search?k=1", content=images[0], headers=PNG).json()
        assert found["release"]["version"] == 1
        switched = client.post("/v1/releases/current", json={"version": 2}, headers=WITH_KEY)
        assert switched.status_code == 200
        assert current_version(releases) == 2
        assert [line["version"] for line in client.get("/v1/releases").json()["releases"]] == [1, 2]


def test_a_service_outlives_its_store(releases, images, monkeypatch):
    """While the store is out of reach the release is served on; then the pointer is followed again."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with running(releases, watch_seconds=0.05) as client:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            wait_for(lambda: client.get("/v1/release").json()["warnings"])
            assert "E_OBJECT_STORE" in client.get("/v1/release").json()["warnings"][0]
            assert client.post("/v1/search?k=1", content=images[0], headers=PNG).status_code == 200
        wait_for(lambda: not client.get("/v1/release").json()["warnings"])
        roll_back(releases, 1)
        wait_for(lambda: client.get("/v1/release").json()["version"] == 1)


def test_gc_removes_abandoned_versions(releases, on_disk, tmp_path, capsys, monkeypatch):
    publish_again(on_disk, 1, releases)
    storage.write_bytes(f"{releases}/.claims/4", b"claimed by a dead process")
    storage.write_bytes(f"{releases}/4/saved_model.pb", b"half of it")
    (tmp_path / "shop.toml").write_text(
        f'name = "shop"\n[data]\npath = "photos"\n[release]\nfolder = "{releases}"\n', encoding="utf-8"
    )
    arguments = ("gc", "shop.toml", "--older-than", "0", "--delete")
    assert [item["path"] for item in answer(capsys, *arguments)["items"]] == [f"{releases}/1"]
    assert [line.version for line in list_releases(releases)] == [2, 3]
    assert storage.exists(f"{releases}/4")  # its publisher may be alive
    monkeypatch.setattr(stored, "_ABANDONED_SECONDS", -60.0)
    assert [item["kind"] for item in answer(capsys, *arguments)["items"]] == ["leftover"]
    assert not storage.exists(f"{releases}/4")
    assert roll_back(releases) == 2


def test_the_folder_of_an_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "shop.toml"
    for folder in ("s3://things/shop", "gs://things/shop"):
        file.write_text(f'name = "shop"\n[data]\npath = "photos"\n[release]\nfolder = "{folder}"\n')
        assert local_places(load_experiment(file)).releases == folder
    assert main(["check", "shop.toml", "--set", "release.folder=hdfs://things/shop"]) == 2
    assert "release.folder" in (stderr := capsys.readouterr().err)
    assert "s3://BUCKET/PATH" in stderr
    assert "gs://BUCKET/PATH" in stderr
