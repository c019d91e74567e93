"""Opening a release: every file is compared with its hash before a library may see it."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from anchorage.errors import DataError, UsageError
from anchorage.release import current_version, fingerprint_model, list_releases, open_release
from anchorage.release.fingerprint import write_identity
from anchorage.release.manifest import read_manifest, seal


@pytest.fixture
def release(sources, releases):
    sources.publish(releases, run_key="a")
    return releases / "1"


def flip(path, at=0):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def reseal(folder, **changes):
    """Writes a manifest that agrees with itself, as a careful forger would."""
    manifest = {**read_manifest(folder), **changes}
    manifest.pop("bundle")
    (folder / "manifest.json").write_bytes(seal(manifest))


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.data-00000-of-00001", "index/scann/dataset.npy", "labels.json"]
)
def test_one_flipped_bit_is_found(release, name):
    flip(release / name)
    with pytest.raises(DataError, match=f"E_RELEASE_DAMAGED.*{name} differs from its hash") as caught:
        open_release(release.parent)
    assert caught.value.exit_status == 3


def test_cut_and_missing_files_are_found(release):
    (release / "gallery.parquet").write_bytes(b"id")
    with pytest.raises(DataError, match=r"gallery\.parquet differs"):
        open_release(release.parent)
    (release / "gallery.parquet").unlink()
    with pytest.raises(DataError, match=r"gallery\.parquet is missing"):
        open_release(release.parent)


def test_foreign_file_is_refused(release):
    (release / "index/scann/scann_docids.pkl").write_bytes(b"payload")
    with pytest.raises(DataError, match=r"scann_docids\.pkl is not in its manifest"):
        open_release(release.parent)


def test_pickle_is_refused_even_when_the_manifest_lists_it(release):
    (release / "index/scann/scann_docids.pkl").write_bytes(b"payload")
    files = read_manifest(release)["files"]
    digest = "c0ff6d5c32c51ed5ff42a0c4bf8ed9d5e6b4f3de1ae58bd6a7f04cf35b4b6ae0"
    reseal(release, files={**files, "index/scann/scann_docids.pkl": {"sha256": digest, "size": 7}})
    with pytest.raises(DataError, match=r"scann_docids\.pkl is a pickle"):
        open_release(release.parent)


def test_path_out_of_the_release_is_refused(release):
    entry = {"sha256": "0" * 64, "size": 0}
    reseal(release, files={**read_manifest(release)["files"], "../../secrets": entry})
    with pytest.raises(DataError, match="does not stay inside"):
        open_release(release.parent)


def test_link_is_refused(release):
    (release / "labels.json").unlink()
    (release / "labels.json").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match=r"labels\.json is not a plain file"):
        open_release(release.parent)


def test_changed_manifest_is_refused(release):
    manifest = json.loads((release / "manifest.json").read_bytes())
    manifest["facts"]["run_key"] = "b"
    (release / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="changed after publishing"):
        open_release(release.parent)
    (release / "manifest.json").write_text('{"format": 1')
    with pytest.raises(DataError, match="cannot be read"):
        open_release(release.parent)
    reseal_other = {"bundle": "x"}
    (release / "manifest.json").write_text(json.dumps(reseal_other))
    with pytest.raises(DataError, match="cannot be read"):
        open_release(release.parent)


def test_newer_format_is_refused(release):
    reseal(release, format=2)
    with pytest.raises(DataError, match="has format 2, this version reads 1"):
        open_release(release.parent)


def no_file(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (no_file, "it is not a file"),
        (lambda path: path.write_text("[" * 100_000), "recursion"),
        (lambda path: path.write_text('{"bundle": "x", "format": 1, "files": ' + '{"a":' * 5_000), "recursion"),
        (lambda path: path.write_bytes(b"\xff\xfe{}"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text('{"bundle": "x", "format": NaN}'), "NaN is not a JSON number"),
        (lambda path: path.write_text('{"bundle": "x", "format": 1e999}'), "cannot be read"),
        (lambda path: path.write_text('{"bundle": "x", "format": ' + "1" * 5_000 + "}"), "cannot be read"),
        (lambda path: path.write_text("[1]"), "not an object"),
    ],
)
def test_manifest_that_is_none_is_a_fault_of_its_version_alone(sources, releases, damage, expected):
    sources.publish(releases, run_key="a")
    sources.publish(releases)
    damage(releases / "2/manifest.json")
    with pytest.raises(DataError, match=f"E_RELEASE_DAMAGED.*{expected}"):
        open_release(releases)
    first, second = list_releases(releases)
    assert (first.fault, first.facts["run_key"]) == ("", "a")
    assert second.fault.startswith("E_RELEASE_DAMAGED")


@pytest.mark.parametrize("field", ["version", "created", "model_fingerprint", "index", "libraries", "facts", "files"])
def test_manifest_without_a_field_is_refused_even_when_sealed(release, field):
    manifest = json.loads((release / "manifest.json").read_bytes())
    del manifest["bundle"], manifest[field]
    (release / "manifest.json").write_bytes(seal(manifest))
    with pytest.raises(DataError, match=f"E_RELEASE_DAMAGED.*`{field}` is missing"):
        open_release(release.parent)
    assert "is missing" in list_releases(release.parent)[0].fault


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1"},
        {"version": True},
        {"files": []},
        {"files": {"labels.json": None}},
        {"files": {"labels.json": {"sha256": "0" * 64}}},
        {"files": {"labels.json": {"sha256": "0" * 64, "size": -1}}},
        {"files": {"labels.json": {"sha256": "../..", "size": 2}}},
        {"facts": {"run_key": "a"}},
        {"facts": {"previous": "0"}},
        {"facts": {"previous": 10**300}},
        {"facts": {"previous": None, "run_key": 3}},
        {"facts": {"previous": None, "metrics": {"map@r": "high"}}},
        {"facts": {"previous": None, "metrics": [0.5]}},
        {"created": 2026},
    ],
)
def test_manifest_with_a_field_of_another_type_is_refused_even_when_sealed(release, changes):
    reseal(release, **changes)
    (field,) = changes
    with pytest.raises(DataError, match=f"E_RELEASE_DAMAGED.*`{field}"):
        open_release(release.parent)
    assert "E_RELEASE_DAMAGED" in list_releases(release.parent)[0].fault


def test_index_of_another_release_is_refused(sources, make_sources, releases):
    sources.publish(releases)
    make_sources("two").publish(releases)
    shutil.rmtree(releases / "2/index")
    shutil.copytree(releases / "1/index", releases / "2/index")
    with pytest.raises(DataError, match=r"E_RELEASE_DAMAGED.*index/index\.json differs"):
        open_release(releases)
    one, two = read_manifest(releases / "1")["files"], read_manifest(releases / "2")["files"]
    reseal(releases / "2", files={name: (one if name.startswith("index/") else two)[name] for name in two})
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED.*Received: model \w{12}, index made with \w{12}"):
        open_release(releases)


def test_version_under_another_number_is_refused(sources, releases):
    sources.publish(releases)
    sources.publish(releases)
    (releases / "1").rename(releases / "5")
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED.*files of version 1"):
        open_release(releases, 5)


def test_moved_folder_opens(release, tmp_path):
    shutil.move(release.parent, tmp_path / "elsewhere ü")
    assert open_release(tmp_path / "elsewhere ü").version == 1
    shutil.move(tmp_path / "elsewhere ü/1", tmp_path / "alone")
    assert open_release(tmp_path / "alone").facts["run_key"] == "a"


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match=r"E_RELEASE_MISSING.*no current release"):
        open_release(tmp_path)
    with pytest.raises(UsageError, match=r"E_RELEASE_MISSING.*no such folder"):
        list_releases(tmp_path / "absent")
    assert current_version(tmp_path / "absent") is None


def test_damaged_release_is_listed_with_its_fault(sources, releases):
    sources.publish(releases, run_key="a")
    sources.publish(releases)
    (releases / "2/manifest.json").write_text("{")
    first, second = list_releases(releases)
    assert (first.version, first.current, first.fault, first.facts["run_key"]) == (1, False, "", "a")
    assert (second.version, second.current) == (2, True)
    assert second.fault.startswith("E_RELEASE_DAMAGED")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "gallery.parquet is missing"),
        (lambda path: path.write_bytes(b"id"), "gallery.parquet differs from its size in the manifest: 2 bytes, not 5"),
        (lambda path: path.with_name("notes.txt").write_bytes(b""), "notes.txt is not in its manifest"),
    ],
)
def test_release_whose_files_changed_is_listed_with_its_fault(sources, releases, damage, expected):
    sources.publish(releases, run_key="a")
    sources.publish(releases)
    damage(releases / "1/gallery.parquet")
    first, second = list_releases(releases)
    assert f"Received: {expected}. It was not opened" in first.fault
    assert (first.facts["run_key"], second.fault) == ("a", "")
    assert first.created
    with pytest.raises(DataError, match=f"E_RELEASE_DAMAGED.*{expected}"):
        open_release(releases, 1)


def test_fingerprint_sees_weights_and_graph_but_not_notes(sources):
    before = fingerprint_model(sources.model)
    (sources.model / "learner.keras").write_bytes(b"other")
    assert fingerprint_model(sources.model) == before
    flip(sources.model / "variables/variables.data-00000-of-00001", at=7)
    assert fingerprint_model(sources.model) != before
    with pytest.raises(DataError, match="E_MODEL_MISSING"):
        fingerprint_model(sources.model.parent)


def test_recorded_identity_counts_for_the_files_that_it_was_written_for(sources, make_sources, releases):
    weights = sources.model / "variables/variables.data-00000-of-00001"
    first = write_identity(sources.model, {"weights": ["a", "b"]})
    flip(weights)
    with pytest.raises(DataError, match="E_MODEL_CHANGED"):
        fingerprint_model(sources.model)
    assert write_identity(sources.model, {"weights": ["a", "b"]}) == first == fingerprint_model(sources.model)
    assert write_identity(sources.model, {"weights": ["a", "c"]}) != first
    sources.write_index_facts(fingerprint_model(sources.model))
    assert open_release(releases, sources.publish(releases)).model_fingerprint == fingerprint_model(sources.model)


def test_release_whose_recorded_identity_is_of_other_files_is_refused(sources, releases):
    write_identity(sources.model, {"weights": ["a"]})
    sources.write_index_facts(fingerprint_model(sources.model))
    sources.publish(releases)
    files = read_manifest(releases / "1")["files"]
    flip(releases / "1/saved_model.pb")
    changed = hashlib.sha256((releases / "1/saved_model.pb").read_bytes()).hexdigest()
    reseal(releases / "1", files={**files, "saved_model.pb": {**files["saved_model.pb"], "sha256": changed}})
    with pytest.raises(DataError, match="E_MODEL_CHANGED"):
        open_release(releases)


def test_nothing_heavy_is_imported():
    script = (
        "import sys, anchorage.release\n"
        "heavy = {m.split('.')[0] for m in sys.modules} & {'numpy', 'keras', 'tensorflow', 'scann', 'pyarrow'}\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
