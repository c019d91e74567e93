"""Objects of Google Cloud Storage, through Google's client; the etag of an object is its generation.

A generation, a number that grows with each write of an object, is what this store puts conditions on: 0 stands for no
object. TensorFlow's own access to `gs://` knows none, so that two publishers of a release could overwrite each other.
"""

import os
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from anchorage.errors import AnchorageError, causes
from anchorage.storage import faults
from anchorage.storage.stores import CONNECT_SECONDS, PARALLEL, PART, READ_SECONDS, Entry

_RETRY_SECONDS = 60.0  # after which no further attempt begins
_FIELDS = "items(name,size,generation,timeCreated),nextPageToken"


class GoogleStore:
    """Google's client, with the credentials of the environment, or with STORAGE_EMULATOR_HOST; see `Store`."""

    extra: ClassVar[str] = "gs"
    variables: ClassVar[tuple[str, ...]] = ("GOOGLE_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE")

    def __init__(self) -> None:
        from google.cloud.storage import Client
        from google.cloud.storage.retry import DEFAULT_RETRY
        from requests.adapters import HTTPAdapter

        # Else the client looks up each bucket in a thread, for traces, and for minutes if the store does not answer.
        # That draws random numbers, so that a training that begins meanwhile would not repeat with its seed.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        self._client = Client(project=None)  # the requests of this class belong to no project
        session = self._client._http
        if not session.is_mtls:  # which has an adapter of its own
            session.mount("https://", HTTPAdapter(pool_maxsize=PARALLEL))
            session.mount("http://", HTTPAdapter(pool_maxsize=PARALLEL))
        self._limits = {"timeout": (CONNECT_SECONDS, READ_SECONDS), "retry": DEFAULT_RETRY.with_timeout(_RETRY_SECONDS)}
        self._found: set[str] = set()  # buckets
        self.endpoint = self._client.api_endpoint

    @staticmethod
    @contextmanager
    def trouble(uri: str) -> Iterator[None]:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
        from requests.exceptions import RequestException

        try:
            yield
        except (GoogleAPIError, GoogleAuthError, InvalidResponse, DataCorruption, RequestException) as error:
            _forget_callers(error)
            raise _translate(error, uri) from error

    def head(self, bucket: str, key: str) -> Entry:
        with self._object(bucket, key) as blob:
            blob.reload(**self._limits)
        return _entry(blob)

    def list_objects(self, bucket: str, prefix: str, most: int | None = None) -> Iterator[tuple[str, Entry]]:
        with self._listing(bucket, prefix):
            for blob in self._client.list_blobs(
                bucket, prefix=prefix, max_results=most, fields=_FIELDS, **self._limits
            ):
                yield blob.name, _entry(blob)

    def list_folders(self, bucket: str, prefix: str) -> Iterator[str]:
        with self._listing(bucket, prefix):
            found = self._client.list_blobs(bucket, prefix=prefix, delimiter="/", **self._limits)
            for _ in found.pages:
                pass
        return iter(sorted(name[len(prefix) : -1] for name in found.prefixes))

    def read(self, bucket: str, key: str, most: int | None = None) -> tuple[bytes, str]:
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        end = None if most is None else most - 1
        with self._object(bucket, key) as blob:
            try:
                return blob.download_as_bytes(end=end, **self._limits), str(blob.generation)
            except RequestRangeNotSatisfiable:  # the object is empty
                blob.reload(**self._limits)
                return b"", str(blob.generation)

    def write(self, bucket: str, key: str, data: bytes, *, if_absent: bool, if_match: str | None) -> str:
        generation = 0 if if_absent else int(if_match) if if_match else None
        with self._object(bucket, key) as blob:
            blob.upload_from_string(data, "application/octet-stream", if_generation_match=generation, **self._limits)
        return str(blob.generation)

    def delete(self, bucket: str, key: str) -> None:
        from google.api_core.exceptions import NotFound

        with suppress(NotFound), self._object(bucket, key) as blob:
            blob.delete(**self._limits)

    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda key: self.delete(bucket, key), keys))

    def fetch(self, bucket: str, key: str, entry: Entry, target: Path) -> None:
        from google.api_core.exceptions import NotFound

        try:
            with self._object(bucket, key, generation=int(entry.etag)) as blob:
                blob.download_to_filename(str(target), **self._limits)
        except NotFound as error:  # there is no such generation any more
            raise faults.LostRaceError(f"gs://{bucket}/{key}") from error

    def send(self, source: Path, bucket: str, key: str) -> None:
        with self._object(bucket, key, chunk_size=PART) as blob:
            blob.upload_from_filename(str(source), **self._limits)

    @contextmanager
    def _object(self, bucket: str, key: str, **facts: Any) -> Iterator[Any]:
        """Yield an object to work on; of a 404, find out whether the object or its bucket is missing.

        The server says it in words alone, but it lists an existing bucket.
        """
        from google.api_core.exceptions import NotFound

        try:
            yield self._client.bucket(bucket).blob(key, **facts)
        except NotFound as error:
            _forget_callers(error)
            if bucket not in self._found:
                list(self.list_objects(bucket, key, most=1))
            raise

    @contextmanager
    def _listing(self, bucket: str, prefix: str) -> Iterator[None]:
        from google.api_core.exceptions import NotFound

        try:
            yield
        except NotFound as error:
            raise faults.no_bucket(f"gs://{bucket}/{prefix}", _text(error)) from error
        self._found.add(bucket)


def _forget_callers(error: Exception) -> None:
    """Break the cycle of references that Google's retries make: it keeps the objects of all callers alive."""
    traceback.clear_frames(error.__traceback__)


def _entry(blob: Any) -> Entry:
    return Entry(blob.size, str(blob.generation), blob.time_created.timestamp())


def _translate(error: Exception, uri: str) -> AnchorageError:
    from google.auth.exceptions import GoogleAuthError, TransportError

    answer, status = next(((each, code) for each in causes(error) if (code := _status(each))), (error, 0))
    if status == 404:
        return faults.MissingObjectError(uri)
    if status == 412:
        return faults.LostRaceError(uri)
    if status:
        return (faults.denied if status in (401, 403) else faults.refused)(uri, f"{status}: {_text(answer)}")
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        remedy = (
            "Set GOOGLE_APPLICATION_CREDENTIALS to a key file, run `gcloud auth application-default login`, or give "
            "this machine a service account."
        )
        return faults.no_credentials(uri, _text(error), remedy)
    return faults.no_answer(uri, _text(error), "STORAGE_EMULATOR_HOST")


def _status(error: BaseException) -> int:
    """Return the status of the server's answer, 0 if there was none."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud.storage.exceptions import InvalidResponse

    if isinstance(error, GoogleAPICallError):
        return int(error.code or 0)
    return error.response.status_code if isinstance(error, InvalidResponse) else 0


def _text(error: BaseException) -> str:
    """Return the server's own words, or those of the client, in one line."""
    try:
        text = error.response.json()["error"]["message"]  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError, ValueError):
        text = getattr(error, "message", None) or error
    return f"{' '.join(str(text).split()):.300}".rstrip(".: ") or type(error).__name__
