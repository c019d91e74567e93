"""Publishing: what is on the disk after success, after a full disk, and when two publish at once."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from anchorage import disk
from anchorage import files as release_files
from anchorage.errors import AnchorageError, DataError, ResourceError, UsageError
from anchorage.release import current_version, list_releases, open_release, publish_release, roll_back


def visible(releases):
    return sorted(path.name for path in releases.iterdir() if not path.name.startswith("."))


def hidden_leftovers(releases):
    return [path.name for path in releases.iterdir() if path.name.startswith(".tmp-")]


def test_first_release_is_one_and_current(sources, releases):
    assert current_version(releases) is None
    assert sources.publish(releases, run_key="a") == 1
    assert current_version(releases) == 1
    assert visible(releases) == ["1", "current"]
    assert (releases / "1/saved_model.pb").read_bytes() == b"graph one"
    assert (releases / "1/index/scann/dataset.npy").read_bytes() == b"vectors"
    release = open_release(releases)
    assert release.version == 1
    assert release.facts == {"run_key": "a", "previous": None}
    assert release.thresholds == {"equal_error": 0.5}


def test_each_release_names_the_one_it_replaced(sources, releases):
    sources.publish(releases)
    assert sources.publish(releases) == 2
    assert sources.publish(releases) == 3
    assert [s.facts["previous"] for s in list_releases(releases)] == [None, 1, 2]
    assert [s.current for s in list_releases(releases)] == [False, False, True]


def test_roll_back_moves_the_pointer_along_the_chain(sources, releases):
    for _ in range(3):
        sources.publish(releases)
    assert roll_back(releases) == 2
    assert roll_back(releases) == 1
    with pytest.raises(UsageError, match=r"E_RELEASE_MISSING.*earlier release"):
        roll_back(releases)
    assert roll_back(releases, 3) == 3
    with pytest.raises(UsageError, match=r"Expected release 9 .*versions \[1, 2, 3\]"):
        roll_back(releases, 9)
    assert current_version(releases) == 3


def test_roll_back_to_a_damaged_release_leaves_the_pointer(sources, releases):
    sources.publish(releases)
    sources.publish(releases)
    (releases / "1/labels.json").write_bytes(b"[]x")
    with pytest.raises(DataError, match="E_RELEASE_DAMAGED"):
        roll_back(releases)
    assert current_version(releases) == 2


def test_roll_back_passes_over_damaged_releases_and_copies_of_the_current_one(sources, releases, caplog):
    for _ in range(3):
        sources.publish(releases)
    sources.publish(releases, copy=True)
    (releases / "2/labels.json").write_bytes(b"[]x")
    assert roll_back(releases) == 1
    passed = [record.getMessage() for record in caplog.records]
    assert passed[0] == "release 3 is skipped: it has the same model and index as release 4"
    assert passed[1].startswith("release 2 is skipped: E_RELEASE_DAMAGED")


def test_roll_back_from_a_damaged_release_goes_to_an_intact_copy_of_it(sources, releases):
    sources.publish(releases)
    sources.publish(releases)
    sources.publish(releases, copy=True)
    (releases / "3/saved_model.pb").write_bytes(b"grapf one")
    assert roll_back(releases) == 2


@pytest.mark.parametrize("fault", ["deleted", "no manifest", "manifest"])
def test_roll_back_from_a_release_that_cannot_be_read_goes_to_the_one_below(sources, releases, fault):
    for _ in range(3):
        sources.publish(releases)
    if fault == "deleted":
        shutil.rmtree(releases / "3")
    elif fault == "no manifest":
        (releases / "3/manifest.json").unlink()
    else:
        (releases / "3/manifest.json").write_text("{")
    with pytest.raises(AnchorageError, match=r"anchorage releases rollback --release \S*releases`"):
        open_release(releases)
    assert roll_back(releases) == 2
    assert open_release(releases).version == 2


@pytest.mark.parametrize("pointer", ["folder", "garbage", "300 digits", "missing"])
def test_damaged_pointer_is_mended_by_rollback_or_by_the_next_release(sources, releases, tmp_path, pointer):
    sources.publish(releases)
    sources.publish(releases)
    damage_pointer(releases, pointer)
    if pointer == "missing":
        assert current_version(releases) is None
    else:
        with pytest.raises(DataError, match=r"one version number.*anchorage releases rollback .* --to VERSION"):
            current_version(releases)
        with pytest.raises(DataError, match="one version number"):
            roll_back(releases)  # which one was current is not known
    assert roll_back(releases, 1) == current_version(releases) == 1
    damage_pointer(releases, pointer)
    assert sources.publish(releases) == current_version(releases) == 3
    assert open_release(releases).facts["previous"] == 2


def damage_pointer(releases, how):
    (releases / "current").unlink()
    if how == "folder":
        (releases / "current").mkdir()
        (releases / "current/notes.txt").write_text("mine")
    elif how != "missing":
        (releases / "current").write_text({"garbage": "one", "300 digits": "1" * 300}[how])


def test_the_same_run_is_published_once(sources, releases):
    sources.publish(releases, run_key="a")
    assert sources.publish(releases, run_key="b") == 2
    (releases / "current").write_text("1\n")  # as if killed before the pointer was moved
    assert sources.publish(releases, copy=True, run_key="b") == 2
    assert current_version(releases) == 2
    assert sources.publish(releases, copy=True, run_key="b") == 2  # and as if killed after
    assert visible(releases) == ["1", "2", "current"]
    assert roll_back(releases) == 1


def test_another_result_or_a_damaged_release_of_the_same_run_is_published_anew(sources, releases):
    sources.publish(releases, run_key="a")
    assert sources.publish(releases, run_key="a") == 2  # another gallery
    assert sources.publish(releases, copy=True, run_key="b") == 3  # another run
    (releases / "3/labels.json").write_bytes(b"[]x")
    assert sources.publish(releases, copy=True, run_key="b") == 4
    sources.publish(releases, copy=True)
    assert sources.publish(releases, copy=True) == 6  # nothing says that it is the same run


def test_after_a_roll_back_the_next_release_replaces_the_older_one(sources, releases):
    for _ in range(3):
        sources.publish(releases)
    roll_back(releases, 1)
    assert sources.publish(releases) == 4
    assert open_release(releases).facts["previous"] == 1


def test_versions_only_grow_even_when_the_last_was_deleted(sources, releases):
    sources.publish(releases)
    sources.publish(releases)
    roll_back(releases)
    shutil.rmtree(releases / "2")
    assert sources.publish(releases) == 3


def test_a_number_taken_by_someone_else_is_never_overwritten(sources, releases):
    sources.publish(releases)
    (releases / "7").mkdir()
    (releases / ".last-version").write_text("garbage")
    assert sources.publish(releases) == 8
    assert list((releases / "7").iterdir()) == []


def test_index_of_another_model_is_refused_before_anything_is_written(sources, make_sources, releases):
    sources.index = make_sources("two").index
    with pytest.raises(DataError, match="E_RELEASE_MIXED"):
        sources.publish(releases)
    assert not releases.exists()


@pytest.mark.parametrize("name", ["notes.pkl", "index/Docids.PICKLE", "../outside", "/etc/x", "a//b"])
def test_files_that_no_release_may_hold(sources, releases, name):
    files = {"gallery.parquet": b"ids", name: b"x"}
    with pytest.raises(DataError, match="E_RELEASE_FILE"):
        publish_release(releases, model_folder=sources.model, index_folder=sources.index, files=files, facts={})
    assert not releases.exists()


def test_two_sources_for_one_file_are_refused(sources, releases):
    files = {"gallery.parquet": b"ids", "saved_model.pb": b"x"}
    with pytest.raises(DataError, match=r"E_RELEASE_FILE.*saved_model\.pb"):
        publish_release(releases, model_folder=sources.model, index_folder=sources.index, files=files, facts={})


def test_folders_are_copied_whole(sources, releases, tmp_path):
    report = tmp_path / "report"
    (report / "figures").mkdir(parents=True)
    (report / "figures/recall.png").write_bytes(b"png")
    (report / "report ü.html").write_bytes(b"html")
    files = {"gallery.parquet": b"ids", "report": report}
    publish_release(releases, model_folder=sources.model, index_folder=sources.index, files=files, facts={})
    assert (releases / "1/report/figures/recall.png").read_bytes() == b"png"
    assert "report/report ü.html" in open_release(releases).manifest["files"]


def test_two_publishers_at_once_take_turns(sources, releases):
    script = (
        "import sys\nfrom anchorage.release import publish_release\n"
        "for _ in range(4):\n"
        "    print(publish_release(sys.argv[1], model_folder=sys.argv[2], index_folder=sys.argv[3],"
        " files={'gallery.parquet': b'ids'}, facts={}), flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(releases), str(sources.model), str(sources.index)]
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=True), range(3)))
    taken = sorted(int(number) for run in runs for number in run.stdout.split())
    assert taken == list(range(1, 13))
    assert current_version(releases) == 12
    assert [s.facts["previous"] for s in list_releases(releases)] == [None, *range(1, 12)]
    assert not hidden_leftovers(releases)


def test_too_little_free_space_is_found_before_the_first_byte(sources, releases, monkeypatch):
    sources.publish(releases)
    monkeypatch.setattr(release_files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(ResourceError, match=r"E_DISK_FULL.*[\d,]+ bytes of free space in .*releases.*5 bytes free"):
        sources.publish(releases)
    assert visible(releases) == ["1", "current"]


@pytest.mark.parametrize("room", range(0, 17000, 900))
def test_disk_that_fills_up_half_way(sources, releases, monkeypatch, room):
    sources.publish(releases)
    left = [room]
    honest = os.fsync

    def fsync(handle):  # the system may report a full disk as late as here
        if os.fstat(handle).st_mode & 0o170000 == 0o100000:
            left[0] -= os.fstat(handle).st_size
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ResourceError, match="E_DISK_FULL") as caught:
        sources.publish(releases)
    assert caught.value.exit_status == 4
    monkeypatch.undo()
    assert current_version(releases) == 1
    assert open_release(releases).version == 1
    assert not hidden_leftovers(releases)
    assert open_release(releases, sources.publish(releases)).version >= 2


def test_limit_on_file_size_counts_as_a_full_disk(sources, releases):
    sources.publish(releases)
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the weights have 15,000 bytes
    try:
        with pytest.raises(ResourceError, match="E_DISK_FULL"):
            sources.publish(releases)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert visible(releases) == ["1", "current"]
    assert not hidden_leftovers(releases)
    assert sources.publish(releases) == 2


def test_real_full_disk(sources, releases, monkeypatch):
    releases.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(releases)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    monkeypatch.setattr(disk, "_RESERVE", -(1 << 30))  # so that the disk itself says no
    try:
        sources.publish(releases)
        ballast = releases / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(releases).free - 20_480))
        with pytest.raises(ResourceError, match="E_DISK_FULL"):
            sources.publish(releases)
        assert open_release(releases).version == 1
        assert not hidden_leftovers(releases)
        ballast.unlink()
        assert sources.publish(releases) == 2
    finally:
        subprocess.run(["umount", str(releases)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_the_right_to_write(sources, releases):
    sources.publish(releases)
    releases.chmod(0o555)
    try:
        with pytest.raises(ResourceError, match="E_NOT_WRITABLE"):
            sources.publish(releases)
    finally:
        releases.chmod(0o755)


def test_no_rights_is_a_resource_error(sources, releases, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system", "x")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(ResourceError, match=r"E_NOT_WRITABLE.*Read-only"):
        sources.publish(releases)


def test_a_file_where_the_folder_should_be(sources, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="Received: a file"):
        sources.publish(tmp_path / "file")
