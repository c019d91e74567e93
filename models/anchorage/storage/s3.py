"""Objects of a store that speaks S3, through boto3."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from anchorage.errors import AnchorageError, causes
from anchorage.storage import faults
from anchorage.storage.stores import CONNECT_SECONDS, PARALLEL, PART, READ_SECONDS, Entry

_KEYS = 1000  # per request to delete
_PARTS_AT_ONCE = 4  # of one object

_ABSENT = ("NoSuchKey", "NotFound", "404")
_RACE = ("PreconditionFailed", "ConditionalRequestConflict", "412")
_DENIED = (
    *("AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestExpired"),
    *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "401", "403"),
)


class S3Store:
    """boto3's client, with the credentials and the endpoint of the environment; see `Store`."""

    extra: ClassVar[str] = "s3"
    variables: ClassVar[tuple[str, ...]] = ("AWS_",)

    def __init__(self) -> None:
        import boto3
        from botocore.config import Config

        session = boto3.session.Session()
        shared = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "max_pool_connections": PARALLEL * _PARTS_AT_ONCE,
        }
        self._client = session.client("s3", config=Config(**shared))
        if "amazonaws.com" not in self._client.meta.endpoint_url:
            # Other servers rarely have a name in the DNS for each bucket.
            self._client = session.client("s3", config=Config(**shared, s3={"addressing_style": "path"}))
        self.endpoint = self._client.meta.endpoint_url

    @staticmethod
    @contextmanager
    def trouble(uri: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise _translate(error, uri) from error

    def head(self, bucket: str, key: str) -> Entry:
        answer = self._client.head_object(Bucket=bucket, Key=key)
        return Entry(answer["ContentLength"], answer["ETag"], answer["LastModified"].timestamp())

    def list_objects(self, bucket: str, prefix: str, most: int | None = None) -> Iterator[tuple[str, Entry]]:
        for page in self._pages(Bucket=bucket, Prefix=prefix, PaginationConfig={"MaxItems": most, "PageSize": most}):
            for each in page.get("Contents", []):
                yield each["Key"], Entry(each["Size"], each["ETag"], each["LastModified"].timestamp())

    def list_folders(self, bucket: str, prefix: str) -> Iterator[str]:
        for page in self._pages(Bucket=bucket, Prefix=prefix, Delimiter="/"):
            for each in page.get("CommonPrefixes", []):
                yield each["Prefix"][len(prefix) : -1]

    def read(self, bucket: str, key: str, most: int | None = None) -> tuple[bytes, str]:
        answer = self._client.get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(most), answer["ETag"]

    def write(self, bucket: str, key: str, data: bytes, *, if_absent: bool, if_match: str | None) -> str:
        conditions = {**({"IfNoneMatch": "*"} if if_absent else {}), **({"IfMatch": if_match} if if_match else {})}
        return self._client.put_object(Bucket=bucket, Key=key, Body=data, **conditions)["ETag"]

    def delete(self, bucket: str, key: str) -> None:
        self._client.delete_object(Bucket=bucket, Key=key)

    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _KEYS):
            wanted = [{"Key": key} for key in keys[start : start + _KEYS]]
            answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": wanted, "Quiet": True})
            for error in answer.get("Errors", ()):
                raise _translate_answer({"Error": error}, f"s3://{bucket}/{error.get('Key', '')}")

    def fetch(self, bucket: str, key: str, entry: Entry, target: Path) -> None:
        if entry.size > PART:
            self._client.download_file(bucket, key, str(target), Config=_transfer())
            return
        answer = self._client.get_object(Bucket=bucket, Key=key, IfMatch=entry.etag)
        target.write_bytes(answer["Body"].read())

    def send(self, source: Path, bucket: str, key: str) -> None:
        if source.stat().st_size > PART:
            self._client.upload_file(str(source), bucket, key, Config=_transfer())
        else:
            self._client.put_object(Bucket=bucket, Key=key, Body=source.read_bytes())

    def _pages(self, **request: Any) -> Iterator[dict]:
        return self._client.get_paginator("list_objects_v2").paginate(**request)


def _transfer() -> Any:
    """Settings for the transfer of large objects, in several parts at once."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=_PARTS_AT_ONCE)


def _translate(error: Exception, uri: str) -> AnchorageError:
    from botocore import exceptions as known

    answer = next((each for each in causes(error) if isinstance(each, known.ClientError)), None)
    if answer is not None:
        return _translate_answer(answer.response, uri)
    lacks = (
        *(known.NoCredentialsError, known.PartialCredentialsError, known.CredentialRetrievalError),
        *(known.ProfileNotFound, known.TokenRetrievalError, known.NoRegionError, known.SSOError),
    )
    if isinstance(error, lacks):
        remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role."
        return faults.no_credentials(uri, str(error), remedy)
    return faults.no_answer(uri, str(error), "AWS_ENDPOINT_URL")


def _translate_answer(response: dict, uri: str) -> AnchorageError:
    """Translate an answer of the server with an error."""
    error = response.get("Error", {})
    code = str(error.get("Code", ""))
    text = str(error.get("Message") or code).rstrip(".")
    if code in _RACE:
        return faults.LostRaceError(uri)
    if code == "NoSuchBucket":
        return faults.no_bucket(uri, text)
    if code in _ABSENT:
        return faults.MissingObjectError(uri)
    return (faults.denied if code in _DENIED else faults.refused)(uri, f"{code}: {text}")
