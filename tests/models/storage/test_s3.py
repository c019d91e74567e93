"""What only a store that speaks S3 can refuse: keys, secrets and profiles."""

import pytest
from botocore.stub import Stubber

from anchorage import storage
from anchorage.errors import UsageError
from anchorage.storage.s3 import S3Store


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "E_OBJECT_DENIED", "permission"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "E_OBJECT_DENIED", "permission"),
        ({"AWS_PROFILE": "nobody"}, "E_OBJECT_CREDENTIALS", "nobody"),
    ],
)
def test_credentials_that_are_refused(make_bucket, monkeypatch, change, code, words):
    bucket = make_bucket("s3")
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    for action in (storage.list_files, storage.find_object, storage.read_bytes, storage.delete_tree):
        with pytest.raises(UsageError, match=f"{code}.*{words}"):
            action(f"{bucket}/x")


def test_no_credentials(make_bucket, monkeypatch, tmp_path):
    bucket = make_bucket("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError, match=r"E_OBJECT_CREDENTIALS.*AWS_ACCESS_KEY_ID"):
        storage.list_files(bucket)


def test_an_object_that_may_not_be_deleted_is_an_error(make_bucket):
    """The server answers such a request with 200, and names the objects that it left."""
    make_bucket("s3")
    store = S3Store()
    left = {"Key": "kept/a", "Code": "AccessDenied", "Message": "Access Denied."}
    with Stubber(store._client) as answers:
        answers.add_response("delete_objects", {"Errors": [left]})
        with pytest.raises(UsageError, match=r"E_OBJECT_DENIED.*s3://things/kept/a.*AccessDenied"):
            store.delete_many("things", ["kept/a", "kept/b"])
