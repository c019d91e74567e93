"""Addresses: paths are distinguished from URIs, and names that cannot be files are refused."""

from pathlib import Path

import pytest

from anchorage.errors import DataError, UsageError
from anchorage.storage.addresses import check_names, is_remote, join, split


@pytest.mark.parametrize("path", ["folder/file", "/folder", Path("x"), "c:file", "a:b/c", "C:\\folder", ""])
def test_paths_are_local(path):
    assert not is_remote(path)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/a b/ü", "gs://bucket/x"])
def test_uris_are_remote(uri):
    assert is_remote(uri)


@pytest.mark.parametrize("uri", ["hdfs://host/x", "file:///x", "https://host/x", "S3://bucket/x", "s3://", "s3:///x"])
def test_others_are_refused_with_the_allowed_ones(uri):
    with pytest.raises(UsageError, match=r"E_ADDRESS.*s3://BUCKET.*gs://BUCKET.*Received: " + uri):
        is_remote(uri)


def test_a_uri_that_was_made_a_path_is_refused():
    with pytest.raises(UsageError, match="E_ADDRESS"):
        is_remote(Path("s3://bucket/x"))


def test_uris_are_split_and_joined():
    assert split("s3://bucket/a/b/") == ("bucket", "a/b")
    assert split("s3://bucket") == ("bucket", "")
    assert join("s3://bucket/", "a", "b/c") == "s3://bucket/a/b/c"
    assert join("folder", "a") == "folder/a"
    with pytest.raises(UsageError, match="E_ADDRESS"):
        split("folder/a")


@pytest.mark.parametrize("names", [["../a"], ["a/../b"], ["/a"], ["a//b"], ["a\0"], ["./a"], ["a", "a/b"]])
def test_names_that_cannot_be_files_of_a_folder(names):
    with pytest.raises(DataError, match="E_OBJECT_NAME"):
        check_names("s3://bucket", names)


def test_unusual_file_names_are_accepted():
    check_names("s3://bucket", ["a", "b/a", "b/ ü", "..a", "a..b"])
