"""What `anchorage gc` removes, and what it keeps."""

import json
import os
import shutil
import time

import pytest
from releases import draw_images, publish_tiny

from anchorage.errors import ResourceError
from anchorage.release import list_releases, roll_back
from anchorage.storage import list_files, write_bytes
from anchorage_pipeline.cleaning import find_unneeded, remove_unneeded
from anchorage_pipeline.cli import main
from anchorage_pipeline.config import load_experiment
from anchorage_pipeline.lock import hold_folder
from anchorage_pipeline.metadata import choose_metadata
from anchorage_pipeline.run import run_nodes

DAY = 24 * 3600


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of two nodes, of which the second was not taken from the cache, and an unfinished training."""
    from owned_pipeline import owned_pipeline

    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "shop.toml").write_text('name = "shop"\n[data]\npath = "photos"\n')
        experiment = load_experiment("shop.toml")
        metadata = choose_metadata(experiment)
        metadata.path.parent.mkdir(parents=True)
        artifacts = experiment.run_folder / "artifacts"
        metadata.prepare(artifacts)
        for owner in ("first", "second"):
            run_nodes(owned_pipeline(artifacts, owner, metadata.config), owner)
    return folder


@pytest.fixture
def folder(runs, tmp_path, monkeypatch):
    """The runs, 40 days old, with an old checkpoint and a new one."""
    shop = tmp_path / "shop"
    shutil.copytree(runs, shop)
    monkeypatch.chdir(shop)
    # ML Metadata has absolute paths.
    experiment = load_experiment("shop.toml")
    store = choose_metadata(experiment).open()
    artifacts = store.get_artifacts()
    for artifact in artifacts:
        artifact.uri = artifact.uri.replace(str(runs), str(shop))
    store.put_artifacts(artifacts)
    for name in ("old", "new"):
        (shop / f"runs/shop/checkpoints/{name}/step-00000001").mkdir(parents=True)
    for path in [shop, *shop.rglob("*")]:
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    os.utime(shop / "runs/shop/checkpoints/new/step-00000001")
    return shop


def listed(capsys, *arguments):
    capsys.readouterr()
    assert main(["gc", "shop.toml", "--json", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    return document, {item["path"].partition("/shop/runs/shop/")[2] for item in document["items"]}


def test_what_no_run_needs_is_listed_and_deleted_only_on_request(folder, capsys):
    document, paths = listed(capsys)
    assert document["deleted"] is False
    assert {path for path in paths if ".system" not in path} == {
        "artifacts/write_owner/text/1",
        "artifacts/pass_on/copy/2",
        "checkpoints/old",
    }
    assert (folder / "runs/shop/artifacts/write_owner/text/1/owner.txt").is_file()
    listed(capsys, "--delete")
    assert not (folder / "runs/shop/artifacts/write_owner/text/1").exists()
    assert (folder / "runs/shop/artifacts/write_owner/text/3/owner.txt").read_text() == "second"
    assert (folder / "runs/shop/artifacts/pass_on/copy/4/owner.txt").read_text() == "second"
    assert (folder / "runs/shop/checkpoints/new").is_dir()
    states = {
        artifact.uri.rpartition("/")[2]: artifact.state
        for artifact in choose_metadata(load_experiment("shop.toml")).open().get_artifacts()
    }
    assert {number for number, state in states.items() if state == 4} == {"1", "2"}  # DELETED
    assert listed(capsys)[1] == set()


def test_artifacts_and_checkpoints_in_a_bucket(bucket, tmp_path, monkeypatch):
    from owned_pipeline import owned_pipeline

    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.toml").write_text(f'name = "shop"\nruns = "{bucket}"\n[data]\npath = "photos"\n')
    experiment = load_experiment("shop.toml")
    metadata, root = choose_metadata(experiment), f"{bucket}/shop/artifacts"
    metadata.path.parent.mkdir(parents=True)
    metadata.prepare(root)
    for owner in ("first", "second"):
        run_nodes(owned_pipeline(root, owner, metadata.config), owner)
    write_bytes(f"{bucket}/shop/checkpoints/key/step-00000001/state.json", b"{}")
    assert find_unneeded(experiment, older_than=1) == []
    found = find_unneeded(experiment, older_than=-1)
    unneeded = [f"{root}/pass_on/copy/2", f"{root}/write_owner/text/1", f"{bucket}/shop/checkpoints/key"]
    assert sorted(str(item.path) for item in found) == unneeded
    assert [item.size for item in found if item.kind == "artifact"] == [len("first")] * 2
    remove_unneeded(experiment, found)
    assert list(list_files(f"{bucket}/shop")) == [
        "artifacts/pass_on/copy/4/owner.txt",
        "artifacts/write_owner/text/3/owner.txt",
    ]
    metadata.rename()
    metadata.prepare(root)  # what a new store makes must not lie in a folder of an old one
    run_nodes(owned_pipeline(root, "third", metadata.config), "third")
    assert f"{root}/write_owner/text/5" in {artifact.uri for artifact in metadata.open().get_artifacts()}


def test_nothing_younger_than_stated_is_removed(folder, capsys):
    assert listed(capsys, "--older-than", "41", "--delete")[1] == set()


def test_artifacts_stay_while_there_is_no_record_of_a_run(folder, capsys):
    (folder / "runs/shop/metadata.sqlite").unlink()
    paths = listed(capsys)[1]
    assert "checkpoints/old" in paths
    assert not any(path.startswith(("artifacts/write_owner/text", "artifacts/pass_on/copy")) for path in paths)


def test_releases_that_are_neither_current_nor_returned_to_by_a_rollback_are_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.toml").write_text('name = "shop"\n[data]\npath = "photos"\n[release]\nfolder = "releases"\n')
    images = draw_images()
    for gain in (1.0, 2.0, 3.0):
        publish_tiny(tmp_path, images, gain=gain)
    (tmp_path / "releases/1/report/report.html").unlink()  # a damaged one is not needed, either
    assert main(["gc", "shop.toml", "--delete", "--older-than", "1"]) == 0
    assert [release.version for release in list_releases(tmp_path / "releases")] == [1, 2, 3]
    assert "nothing to remove" in capsys.readouterr().out
    assert main(["gc", "shop.toml", "--delete", "--older-than", "0"]) == 0
    assert [release.version for release in list_releases(tmp_path / "releases")] == [2, 3]
    assert roll_back(tmp_path / "releases") == 2


def test_a_folder_in_use_is_left_alone(folder, capsys):
    with hold_folder(folder / "runs/shop", "shop"):
        assert main(["gc", "shop.toml", "--delete"]) == ResourceError.exit_status
    assert "E_RUN_LOCKED" in capsys.readouterr().err
    assert (folder / "runs/shop/checkpoints/old").is_dir()
