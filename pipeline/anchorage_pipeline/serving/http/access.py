"""Access to what changes the service: a key, compared in constant time."""

import hmac
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from anchorage.errors import UsageError
from anchorage_pipeline.serving.settings import ServeSettings

_BEARER = HTTPBearer(auto_error=False, description="The key of ANCHORAGE_API_KEY or --key-file.")


def key_check(settings: ServeSettings) -> Callable[..., None]:
    """Return the dependency of routes that need the key."""

    def check(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if not settings.api_key:
            raise UsageError(
                "E_WRITES_DISABLED",
                "Expected a service with a key: set ANCHORAGE_API_KEY or --key-file. Received: one that only searches",
            )
        given = credentials.credentials if credentials else ""
        # Headers are decoded as Latin-1, whatever bytes the client sent.
        if not hmac.compare_digest(given.encode("latin-1", "replace"), settings.api_key.encode()):
            raise UsageError(
                "E_KEY_WRONG", f"Expected `Authorization: Bearer KEY`. Received: {'another key' if given else 'none'}"
            )

    return check
