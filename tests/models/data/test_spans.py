"""Spans of a data path, and the digest of the data."""

import os

import pytest

from anchorage.data.spans import data_version, resolve_span
from anchorage.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("path", "names", "newest"),
    [
        ("{SPAN}", ["9", "10", "2"], "10"),
        (
            "{SPAN}/photos.csv",
            ["2026-09-01/photos.csv", "2026-11-30/photos.csv", "2026-12-01/other"],
            "2026-11-30/photos.csv",
        ),
        ("span-{SPAN}", ["span-99", "span-100", "other-200"], "span-100"),
        ("photos-{SPAN}.csv", ["photos-1.csv", "photos-3.csv", "photos-4.txt"], "photos-3.csv"),
        ("{SPAN}/a/b", ["1/a/b", "2/a"], "1/a/b"),
    ],
)
def test_the_newest_span_that_exists(tmp_path, path, names, newest):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    assert resolve_span(f"{tmp_path}/{path}") == f"{tmp_path}/{newest}"


def test_a_span_by_name(tmp_path):
    for span in ("1", "2"):
        (tmp_path / span).mkdir()
    assert resolve_span(f"{tmp_path}/{{SPAN}}", "1") == f"{tmp_path}/1"
    assert resolve_span("photos") == "photos"


@pytest.mark.parametrize(("path", "span"), [("{SPAN}", "3"), ("{SPAN}", ""), ("{SPAN}", ".."), ("photos", "1")])
def test_no_such_span(tmp_path, path, span):
    with pytest.raises(UsageError, match="E_SPAN"):
        resolve_span(f"{tmp_path}/{path}", span)


def test_data_version_sees_names_sizes_times_and_the_table(tmp_path):
    image, table = tmp_path / "a b.png", tmp_path / "table.csv"
    image.write_bytes(b"1")
    table.write_text("path,label\na b.png,x\n")
    os.utime(image, ns=(0, 1))
    seen = [data_version(tmp_path, table)]
    os.utime(image, ns=(0, 2))
    seen.append(data_version(tmp_path, table))
    table.write_text("path,label\na b.png,y\n")
    seen.append(data_version(tmp_path, table))
    image.rename(tmp_path / "b.png")
    seen.append(data_version(tmp_path, table))
    assert len(set(seen)) == 4
    (tmp_path / "other.png").write_bytes(b"1")  # the table does not name it
    assert data_version(tmp_path, table) == seen[-1]
    (tmp_path / "sub").mkdir()
    folder = data_version(tmp_path, None)
    (tmp_path / "sub/c.png").write_bytes(b"1")
    assert data_version(tmp_path, None) != folder


def test_data_version_sees_what_lies_behind_links(tmp_path):
    (tmp_path / "data/.store").mkdir(parents=True)
    (tmp_path / "data/.store/1.png").write_bytes(b"1")
    (tmp_path / "data/a").symlink_to(".store")
    (tmp_path / "far").mkdir()
    (tmp_path / "far/2.png").write_bytes(b"1")
    inside = [data_version(tmp_path / "data", None)]
    (tmp_path / "data/.store/1.png").write_bytes(b"22")
    inside.append(data_version(tmp_path / "data", None))
    (tmp_path / "data/.store/1.png").unlink()
    inside.append(data_version(tmp_path / "data", None))
    assert len(set(inside)) == 3
    (tmp_path / "data/b").symlink_to(tmp_path / "far")
    outside = [data_version(tmp_path / "data", None, follow_links=True)]
    (tmp_path / "far/2.png").write_bytes(b"22")
    outside.append(data_version(tmp_path / "data", None, follow_links=True))
    assert len(set(outside)) == 2
    with pytest.raises(DataError, match="E_PATH_OUTSIDE"):
        data_version(tmp_path / "data", None)


def test_data_version_survives_what_ingestion_rejects(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/gone.png").symlink_to("nowhere.png")
    (tmp_path / "a/loop.png").symlink_to("loop.png")
    broken = data_version(tmp_path, None)
    (tmp_path / "a/nowhere.png").write_bytes(b"1")
    assert data_version(tmp_path, None) != broken
    (tmp_path / "t.csv").write_text("path,label\na\0b.png,x\n,x\n../c.png,x\n")
    assert data_version(tmp_path, tmp_path / "t.csv")
