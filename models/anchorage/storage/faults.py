"""Errors of an object store, whichever it is."""

from anchorage.errors import DataError, ResourceError, UsageError

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


def no_bucket(uri: str, answer: str) -> UsageError:
    """Return the error of a bucket that does not exist."""
    return UsageError(
        "E_BUCKET_MISSING", f"Expected the bucket of {uri}. Received: {answer}. Create it, or correct it."
    )


def no_credentials(uri: str, reason: str, remedy: str) -> UsageError:
    """Return the error of a client that finds no credentials, or cannot use them."""
    return UsageError("E_OBJECT_CREDENTIALS", f"Expected credentials for {uri}. Received: {reason}. {remedy}")


def denied(uri: str, answer: str) -> UsageError:
    """Return the error of a request that the server does not permit."""
    return UsageError(
        "E_OBJECT_DENIED",
        f"Expected permission for {uri}. Received: {answer}. Check the credentials and the policy of the bucket.",
    )


def refused(uri: str, answer: str) -> ResourceError:
    """Return the error of a request that fails for any other reason."""
    return ResourceError("E_OBJECT_STORE", f"Expected the object store to serve {uri}. Received: {answer}. {_AGAIN}")


def no_answer(uri: str, reason: str, variable: str) -> ResourceError:
    """Return the error of a server that cannot be reached; the variable of the environment names its address."""
    return ResourceError(
        "E_OBJECT_STORE",
        f"Expected the object store of {uri} to answer. Received: {reason}. Check the network and {variable}. {_AGAIN}",
    )
