"""Which release a candidate is compared with, when releases were rolled back, damaged or deleted."""

import shutil

import pytest

from anchorage.release import find_baseline, roll_back


@pytest.fixture
def publish(sources, releases):
    """Publishes a release of the run with this key."""
    return lambda run_key: sources.publish(
        releases, run_key=run_key, evaluation_set=f"set of {run_key}", metrics={"map@r": 0.5}
    )


def damage(releases, version):
    (releases / str(version) / "saved_model.pb").write_bytes(b"grapf one")


def test_nothing_published_yet(releases):
    found = find_baseline(releases, "a")
    assert (found["version"], found["path"], found["first"]) == (None, None, True)
    assert found["reason"] == "There is no release yet."


def test_current_release_of_another_run(publish, releases):
    publish("a")
    publish("b")
    found = find_baseline(releases, "c")
    assert (found["version"], found["path"], found["first"]) == (2, str(releases / "2"), False)
    assert found["evaluation_set"] == "set of b"
    assert found["metrics"] == {"map@r": 0.5}
    assert found["reason"] == "Release 2 is current."


def test_releases_of_this_run_are_passed_over(publish, releases):
    for run_key in ("a", "b", "b"):
        publish(run_key)
    found = find_baseline(releases, "b")
    assert found["version"] == 1
    assert found["reason"] == "Release 1 is the newest that is not from this run."


def test_release_that_was_rolled_back_is_not_a_baseline(publish, releases):
    publish("a")
    publish("b")
    roll_back(releases)
    assert find_baseline(releases, "c")["version"] == 1


def test_only_releases_of_this_run(publish, releases):
    publish("a")
    found = find_baseline(releases, "a")
    assert (found["version"], found["first"]) == (None, True)
    assert found["reason"] == "Release 1 is from this run, and there is no intact release before it."


def test_release_before_this_run_was_removed(publish, releases):
    publish("a")
    publish("b")
    shutil.rmtree(releases / "1")
    found = find_baseline(releases, "b")
    assert (found["version"], found["first"]) == (None, False)
    assert found["reason"].startswith("Release 1 was skipped: Expected a release in ")


def test_damaged_current_release_gives_way_to_the_newest_intact_one_before_it(publish, releases):
    for run_key in ("a", "b", "c"):
        publish(run_key)
    damage(releases, 3)
    shutil.rmtree(releases / "2")
    found = find_baseline(releases, "d")
    assert found["version"] == 1
    assert "Release 3 was skipped: Expected the release" in found["reason"]
    assert "saved_model.pb differs from its hash" in found["reason"]
    assert "Release 2 was skipped" in found["reason"]
    assert found["reason"].endswith("Release 1 is the newest that is intact.")


def test_where_no_release_is_intact_the_reason_mentions_them(publish, releases):
    publish("a")
    damage(releases, 1)
    found = find_baseline(releases, "b")
    assert (found["version"], found["first"]) == (None, False)
    assert found["reason"].startswith("Release 1 was skipped")
    assert found["reason"].endswith("No release is intact.")


def test_release_without_a_pointer_is_a_baseline_all_the_same(publish, releases):
    publish("a")
    (releases / "current").unlink()
    assert find_baseline(releases, "b")["version"] == 1
