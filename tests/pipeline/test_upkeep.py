import json
import shutil

import pytest

from anchorage.errors import DataError
from anchorage.release import fingerprint_model, publish_release
from anchorage.release.manifest import read_manifest
from anchorage_pipeline.upkeep import forget_lost_releases, rename_damaged_artifact


@pytest.fixture
def published(tmp_path):
    """A release, and the record of it among the artifacts."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/saved_model.pb").write_bytes(b"graph")
    (tmp_path / "index").mkdir()
    facts = {"model_fingerprint": fingerprint_model(tmp_path / "model")}
    (tmp_path / "index/index.json").write_text(json.dumps(facts))

    def publish(name):
        return publish_release(
            tmp_path / "releases",
            model_folder=tmp_path / "model",
            index_folder=tmp_path / "index",
            files={"gallery.parquet": b"rows"},
            facts={"run_key": name},
        )

    release = tmp_path / "releases" / str(publish("mine"))
    record = tmp_path / "artifacts/PublishRelease/release/9/release.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"version": 1, "path": str(release), "bundle": read_manifest(release)["bundle"]}))
    return release, record, publish


def test_the_record_of_a_release_that_is_there_stays(published, tmp_path):
    _, record, publish = published
    publish("another")
    forget_lost_releases(tmp_path / "artifacts")
    assert record.is_file()


def test_the_record_of_a_deleted_release_goes(published, tmp_path):
    release, record, _ = published
    shutil.rmtree(release)
    forget_lost_releases(tmp_path / "artifacts")
    assert not record.parent.exists()


def test_the_record_of_a_damaged_release_goes(published, tmp_path):
    release, record, _ = published
    (release / "saved_model.pb").write_bytes(b"other")
    forget_lost_releases(tmp_path / "artifacts")
    assert not record.parent.exists()


def test_the_record_of_a_release_that_another_one_took_the_place_of_goes(published, tmp_path):
    release, record, publish = published
    shutil.rmtree(release.parent)
    assert publish("another") == 1
    forget_lost_releases(tmp_path / "artifacts")
    assert not record.parent.exists()


def test_a_damaged_artifact_is_set_aside_with_a_remedy(tmp_path):
    for number in (7, 8):
        (tmp_path / f"PackExamples/store/{number}/Split-train").mkdir(parents=True)
    fault = DataError("E_STORE_DAMAGED", f"{tmp_path}/PackExamples/store/8/Split-train/shard-00000.u8 is not whole.")
    result = rename_damaged_artifact(tmp_path, fault)
    assert result.code == "E_STORE_DAMAGED"
    assert result.message.endswith("is not whole. It was renamed: run the same command again to recreate it.")
    names = sorted(path.name for path in (tmp_path / "PackExamples/store").iterdir())
    assert names == ["7", "8.damaged-1"]


def test_the_users_own_data_is_never_set_aside(tmp_path):
    (tmp_path / "ImageExampleGen/examples/1").mkdir(parents=True)
    for fault in (
        DataError("E_SPLIT_EMPTY", f"The split val of {tmp_path}/ImageExampleGen/examples/1 has no images."),
        DataError("E_STORE_DAMAGED", "/somewhere/else/store.json is not valid JSON"),
    ):
        assert rename_damaged_artifact(tmp_path, fault) is fault
    assert (tmp_path / "ImageExampleGen/examples/1").is_dir()
