"""Releases in an object store, on real servers: as on a disk, whoever is killed or in a hurry."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from anchorage import storage
from anchorage.errors import AnchorageError, DataError, ResourceError, UsageError
from anchorage.release import (
    current_version,
    find_baseline,
    list_releases,
    open_release,
    roll_back,
    stored,
)
from anchorage.release.items import default_store, find_store
from anchorage.release.manifest import NAME
from anchorage.storage import LostRaceError, cache

ON_BOTH = ("test_the_same_story_as_on_a_disk", "test_publishers_at_once_take_versions_of_their_own")


def is_thorough(item):
    """The tests of `storage` compare the two kinds of store operation by operation."""
    return (
        hasattr(item, "callspec")
        and item.callspec.params.get("either_bucket") == "gs"
        and item.originalname not in ON_BOTH
    )


@pytest.fixture
def bucket(either_bucket):
    return either_bucket


def tell(action):
    """What a call returns, or the code of its error."""
    try:
        return action()
    except AnchorageError as error:
        return error.code


def story(sources, releases):
    """What a user sees, step by step."""
    steps = [
        lambda: current_version(releases),
        lambda: list_releases(releases),
        lambda: open_release(releases),
        lambda: roll_back(releases),
        lambda: find_baseline(releases, "")["reason"],
        lambda: sources.publish(releases, run_key="a"),
        lambda: sources.publish(releases, run_key="b"),
        lambda: sources.publish(releases, copy=True, run_key="b"),  # once
        lambda: sources.publish(releases, run_key="c", metrics={"recall@1": 0.5}),
        lambda: [(line.version, line.current, line.facts, line.fault) for line in list_releases(releases)],
        lambda: roll_back(releases),
        lambda: roll_back(releases),
        lambda: roll_back(releases),
        lambda: roll_back(releases, 9),
        lambda: roll_back(releases, 3),
        lambda: roll_back(releases, 1),
        lambda: sources.publish(releases),
        lambda: [line.facts["previous"] for line in list_releases(releases)],
        lambda: {name: find_baseline(releases, "c")[name] for name in ("version", "first", "reason", "metrics")},
        lambda: open_release(releases, 3).facts["metrics"],
        lambda: open_release(releases).manifest["files"],
        lambda: (open_release(releases, 2).thresholds, open_release(releases, 2).name),
    ]
    return [tell(step) for step in steps]


def test_the_same_story_as_on_a_disk(sources, bucket, tmp_path):
    on_disk = story(sources, tmp_path / "releases")
    sources.galleries = 0
    assert story(sources, f"{bucket}/releases") == on_disk
    assert on_disk[5:9] == [1, 2, 2, 3]
    assert on_disk[10:16] == [2, 1, "E_RELEASE_MISSING", "E_RELEASE_MISSING", 3, 1]


def test_a_release_names_its_uri_and_its_local_files(sources, bucket):
    sources.publish(f"{bucket}/shop/")
    release = open_release(f"{bucket}/shop")
    assert (release.address, release.folder, release.name) == (f"{bucket}/shop/1", f"{bucket}/shop", "shop")
    assert (release.path / "saved_model.pb").read_bytes() == b"graph one"
    alone = open_release(f"{bucket}/shop/1")
    assert (alone.path, alone.address, alone.folder) == (release.path, release.address, release.folder)
    baseline = find_baseline(f"{bucket}/shop", "")
    assert baseline["path"] == f"{bucket}/shop/1"
    assert open_release(baseline["path"]).manifest["bundle"] == baseline["bundle"]


# Forks once per case: the child counts its requests to the server and kills itself before the n-th.
_KILLED = """
import os, signal, sys, threading
import requests, botocore.httpsession
from anchorage.release import publish_release

releases, model, index = sys.argv[1:]
count, lock = [0], threading.Lock()

def counting(honest):
    def send(*request, **settings):
        with lock:
            count[0] += 1
            if count[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
        return honest(*request, **settings)
    return send

botocore.httpsession.URLLib3Session.send = counting(botocore.httpsession.URLLib3Session.send)
requests.Session.send = counting(requests.Session.send)
for n in (*range(1, 12, 4), *range(12, 1000)):  # the last ones are claim, manifest and pointer
    child = os.fork()
    if not child:
        files = {"gallery.parquet": b"ids", "report/a.html": b"x" * 100_000}
        print(publish_release(releases, model_folder=model, index_folder=index, files=files, facts={}), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    print("killed", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.thorough
def test_killed_before_a_request(sources, bucket):
    releases = f"{bucket}/releases"
    sources.publish(releases)
    command = [sys.executable, "-c", _KILLED, releases, str(sources.model), str(sources.index)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    kills, current = 0, [1]
    while (line := process.stdout.readline().strip()) == "killed":
        kills += 1
        shown = [summary.version for summary in list_releases(releases)]
        assert current_version(releases) in shown  # the pointer never names what is not there yet
        assert all(open_release(releases, version) for version in shown[-2:])  # whatever is shown is whole
        current.append(current_version(releases))
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.wait() == 0
    assert kills >= 10
    assert current[-1] == 1  # nothing moves the pointer but its own request, the last
    assert int(line) == current_version(releases) == list_releases(releases)[-1].version
    # The first, those killed before the pointer was read and before it was written, the last.
    assert len(list_releases(releases)) == 4
    assert roll_back(releases) == 1


def test_publishers_at_once_take_versions_of_their_own(sources, bucket):
    script = (
        "import sys\nfrom anchorage.release import publish_release\n"
        "for _ in range(2):\n"
        "    print(publish_release(sys.argv[1], model_folder=sys.argv[2], index_folder=sys.argv[3],"
        " files={'gallery.parquet': b'ids'}, facts={}), flush=True)\n"
    )
    command = [sys.executable, "-c", script, bucket, str(sources.model), str(sources.index)]
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=True), range(3)))
    taken = sorted(int(number) for run in runs for number in run.stdout.split())
    assert taken == list(range(1, 7))
    assert current_version(bucket) == 6
    assert [line.version for line in list_releases(bucket)] == taken
    assert all(open_release(bucket, version).version == version for version in taken)
    assert all(
        line.facts["previous"] is None or line.facts["previous"] < line.version for line in list_releases(bucket)
    )


def test_one_that_ends_late_does_not_replace_a_later_one(sources, make_sources, bucket, monkeypatch, caplog):
    other, upload = make_sources("two"), stored.upload

    def slow(folder, uri):
        monkeypatch.setattr(stored, "upload", upload)
        assert other.publish(bucket) == 2
        upload(folder, uri)

    monkeypatch.setattr(stored, "upload", slow)
    assert sources.publish(bucket) == 1
    assert current_version(bucket) == 2
    assert "release 1 is not the current one: 2 was published meanwhile" in caplog.text
    assert [line.version for line in list_releases(bucket)] == [1, 2]


def leave_half(sources, bucket, monkeypatch):
    """A publication of which nothing is left but some files, as after a kill."""

    def half(folder, uri):
        storage.write_bytes(f"{uri}/saved_model.pb", b"graph")
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(stored, "upload", half)
        patch.setattr(stored, "delete_tree", lambda uri: None)
        with pytest.raises(SystemExit):
            sources.publish(bucket)


def test_what_a_killed_publisher_left_is_removed_after_a_day(sources, bucket, monkeypatch):
    sources.publish(bucket)
    leave_half(sources, bucket, monkeypatch)
    assert sources.publish(bucket) == 3
    assert storage.exists(f"{bucket}/2")  # it may be alive
    assert [line.version for line in list_releases(bucket)] == [1, 3]
    monkeypatch.setattr(stored, "_ABANDONED_SECONDS", -60.0)
    assert sources.publish(bucket) == 4
    assert not storage.exists(f"{bucket}/2")
    assert [line.version for line in list_releases(bucket)] == [1, 3, 4]


def test_a_publisher_that_was_taken_for_dead_publishes_nothing(sources, bucket, monkeypatch):
    sources.publish(bucket)
    upload = stored.upload

    def paused(folder, uri):
        upload(folder, uri)
        with monkeypatch.context() as patch:
            patch.setattr(stored, "_ABANDONED_SECONDS", -60.0)
            stored.remove_abandoned(bucket)

    monkeypatch.setattr(stored, "upload", paused)
    with pytest.raises(LostRaceError, match=r"E_OBJECT_CHANGED.*\.claims/2"):
        sources.publish(bucket)
    assert [line.version for line in list_releases(bucket)] == [1]
    assert not storage.exists(f"{bucket}/2")
    monkeypatch.setattr(stored, "upload", upload)
    assert sources.publish(bucket) == 3


def test_a_failed_upload_leaves_nothing(sources, bucket, monkeypatch):
    def fail(folder, uri):
        storage.write_bytes(f"{uri}/saved_model.pb", b"graph")
        raise ResourceError("E_OBJECT_STORE", "gone")

    monkeypatch.setattr(stored, "upload", fail)
    with pytest.raises(ResourceError, match="gone"):
        sources.publish(bucket)
    assert list(storage.list_files(bucket)) == [".claims/1"]
    assert list_releases(bucket) == []


def test_versions_only_grow_even_when_the_last_was_deleted(sources, bucket):
    sources.publish(bucket)
    sources.publish(bucket)
    roll_back(bucket)
    stored.StoredReleases(bucket).remove(2)
    assert [line.version for line in list_releases(bucket)] == [1]
    assert sources.publish(bucket) == 3


def test_answers_that_are_lost_are_no_lost_races(sources, bucket, monkeypatch):
    """A client sends a request again whose answer was lost; the second one meets what the first has written."""
    honest = stored.write_bytes

    def twice(uri, data, **conditions):
        honest(uri, data, **conditions)
        return honest(uri, data, **conditions)

    monkeypatch.setattr(stored, "write_bytes", twice)
    monkeypatch.setattr(stored.StoredReleases, "_check_conditions", lambda self, version: None)
    assert sources.publish(bucket) == 1
    assert current_version(bucket) == 1
    assert open_release(bucket).version == 1


def test_a_store_that_ignores_conditions_is_refused(sources, bucket, monkeypatch):
    honest = stored.write_bytes
    monkeypatch.setattr(stored, "write_bytes", lambda uri, data, **conditions: honest(uri, data))
    with pytest.raises(UsageError, match=r"E_OBJECT_CONDITIONS.*If-None-Match"):
        sources.publish(bucket)
    assert list_releases(bucket) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.json", b"[]x", "labels.json differs"),
        ("labels.json", None, "labels.json is missing"),
        ("extra", b"x", "extra is not in its manifest"),
        (NAME, b"{}", "manifest.json cannot be read"),
    ],
)
def test_a_damaged_release_is_refused_and_passed_over(sources, bucket, name, content, words):
    for _ in range(3):
        sources.publish(bucket)
    if content is None:
        storage.delete(f"{bucket}/2/{name}")
    else:
        storage.write_bytes(f"{bucket}/2/{name}", content)
    with pytest.raises(DataError, match=f"E_RELEASE_DAMAGED.*{bucket}/2.*{words}.*rollback --release {bucket}`"):
        open_release(bucket, 2)
    assert [words in line.fault for line in list_releases(bucket)] == [False, True, False]
    with pytest.raises(DataError, match="E_RELEASE_DAMAGED"):
        roll_back(bucket, 2)
    assert current_version(bucket) == 3
    assert roll_back(bucket) == 1


def test_a_release_without_manifest_is_none(sources, bucket):
    sources.publish(bucket)
    sources.publish(bucket)
    storage.delete(f"{bucket}/2/{NAME}")
    with pytest.raises(UsageError, match=r"E_RELEASE_MISSING.*Expected release 2 .*versions \[1\]"):
        open_release(bucket)
    assert roll_back(bucket) == 1


def test_a_damaged_copy_is_made_again(sources, bucket):
    sources.publish(bucket)
    with open_release(bucket).copy as copy:
        copy.path.joinpath("labels.json").write_bytes(b"[]x")
    with pytest.raises(DataError, match="E_RELEASE_DAMAGED"):
        open_release(bucket)
    assert open_release(bucket).version == 1


def test_a_copy_stays_while_the_release_is_used(sources, bucket, monkeypatch):
    sources.publish(bucket)
    release = open_release(bucket)
    path = release.path
    monkeypatch.setattr(cache, "_UNUSED_SECONDS", -60.0)
    cache.remove_unused(cache.cache_folder())
    assert path.is_dir()
    del release
    cache.remove_unused(cache.cache_folder())
    assert not path.exists()


@pytest.mark.parametrize("content", [b"one", b"1" * 300, b"\xff"])
def test_a_damaged_pointer_is_mended_by_rollback_or_by_the_next_release(sources, bucket, content):
    sources.publish(bucket)
    sources.publish(bucket)
    storage.write_bytes(f"{bucket}/current", content)
    with pytest.raises(DataError, match=r"E_RELEASE_DAMAGED.*one version number.*--to VERSION"):
        current_version(bucket)
    assert roll_back(bucket, 1) == current_version(bucket) == 1
    storage.write_bytes(f"{bucket}/current", content)
    assert sources.publish(bucket) == current_version(bucket) == 3
    assert open_release(bucket).facts["previous"] == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "E_OBJECT_STORE"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "E_OBJECT_DENIED"),
        ({"AWS_PROFILE": "nobody"}, "E_OBJECT_CREDENTIALS"),
    ],
)
def test_a_store_that_cannot_be_used(sources, make_bucket, monkeypatch, change, code):
    bucket = make_bucket("s3")
    sources.publish(bucket)
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    for action in (
        sources.publish,
        current_version,
        list_releases,
        open_release,
        roll_back,
        lambda releases: find_baseline(releases, "a"),
    ):
        with pytest.raises(AnchorageError, match=code):
            action(bucket)


def test_no_such_bucket(sources, bucket):
    for action in (sources.publish, current_version, list_releases, open_release, roll_back):
        with pytest.raises(UsageError, match="E_BUCKET_MISSING"):
            action(f"{bucket.partition(':')[0]}://no-such-bucket/releases")


@pytest.mark.parametrize(("scheme", "folder"), [("s3", "things"), ("gs", "gs/things")])
def test_items_of_a_service_stay_on_this_machine(tmp_path, monkeypatch, scheme, folder):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    releases = f"{scheme}://things/releases/shop"
    file = tmp_path / "anchorage" / folder / "releases/shop/items.sqlite"
    assert find_store(releases) is None
    assert default_store(releases) == f"sqlite:///{file}"
    assert file.parent.is_dir()
    file.touch()
    assert find_store(f"{releases}/") == default_store(releases)
