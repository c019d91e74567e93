"""Errors of an object store, as the errors of this project."""

from collections.abc import Iterator
from contextlib import contextmanager

from anchorage.errors import AnchorageError, DataError, ResourceError, UsageError, causes

_ABSENT = ("NoSuchKey", "NotFound", "404")
_RACE = ("PreconditionFailed", "ConditionalRequestConflict", "412")
_DENIED = (
    *("AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestExpired"),
    *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "401", "403"),
)
_AGAIN = "Run the same command again; the data in the store is intact."


class MissingObjectError(DataError):
    """`E_OBJECT_MISSING`: there is no such object."""

    def __init__(self, uri: str):
        super().__init__("E_OBJECT_MISSING", f"Expected an object or a folder at {uri}. Received: none there.")
        self.uri = uri

    def __reduce__(self) -> tuple:
        return type(self), (self.uri,)


class LostRaceError(ResourceError):
    """`E_OBJECT_CHANGED`: another process has written an object since the caller looked at it."""

    def __init__(self, uri: str):
        super().__init__(
            "E_OBJECT_CHANGED", f"Expected {uri} as it was. Received: it was written by another process. {_AGAIN}"
        )
        self.uri = uri

    def __reduce__(self) -> tuple:
        return type(self), (self.uri,)


@contextmanager
def store_trouble(uri: str) -> Iterator[None]:
    """Convert the exceptions of boto3 inside to errors of this project that name the address.

    Raises:
        UsageError: `E_BUCKET_MISSING`, `E_OBJECT_CREDENTIALS`, `E_OBJECT_DENIED`.
        MissingObjectError: if there is no object at the address.
        LostRaceError: if the condition of a write does not hold.
        ResourceError: `E_OBJECT_STORE` if the store cannot be reached or fails, after boto3's own retries.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise _translate(error, uri) from error


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
        return UsageError(
            "E_OBJECT_CREDENTIALS",
            f"Expected credentials for {uri}. Received: {error}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or give this machine a role.",
        )
    return ResourceError(
        "E_OBJECT_STORE",
        f"Expected the object store of {uri} to answer. Received: {error}. Check the network and AWS_ENDPOINT_URL. "
        + _AGAIN,
    )


def _translate_answer(response: dict, uri: str) -> AnchorageError:
    """Translate an answer of the server with an error."""
    error = response.get("Error", {})
    code = str(error.get("Code", ""))
    text = str(error.get("Message") or code).rstrip(".")
    if code in _RACE:
        return LostRaceError(uri)
    if code == "NoSuchBucket":
        return UsageError(
            "E_BUCKET_MISSING", f"Expected the bucket of {uri}. Received: {text}. Create it, or correct it."
        )
    if code in _ABSENT:
        return MissingObjectError(uri)
    if code in _DENIED:
        return UsageError(
            "E_OBJECT_DENIED",
            f"Expected permission for {uri}. Received: {code}: {text}. Check the credentials and the policy of the "
            "bucket.",
        )
    return ResourceError(
        "E_OBJECT_STORE", f"Expected the object store to serve {uri}. Received: {code}: {text}. {_AGAIN}"
    )
