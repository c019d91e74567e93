"""Connections: limits on the head of a request, which is read before the application sees anything of it."""

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from anchorage_pipeline.serving.settings import Limits

_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """Closes a connection whose head does not end, in bytes or in time.

    The server itself bounds neither, and a connection that waits between requests it closes after the keep-alive time.

    Args:
        limits: limits of the service.
    """

    def __init__(self, *arguments: Any, limits: Limits, **options: Any):
        super().__init__(*arguments, **options)
        self._limits = limits
        self._in_head, self._in_body, self._head_bytes = True, False, 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes > self._limits.head_bytes:
            self.send_400_response(f"Expected at most {self._limits.head_bytes} bytes of headers. Received: more")
            return
        super().data_received(data if self._in_body else _without_upgrade(data))
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0

    def on_message_begin(self) -> None:
        self._in_head = True
        self._wait_for_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # fields after a chunked body would be added to those before it, without a bound
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._limits.request_seconds, self._close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """Remove the wish for another protocol, as Java's client has it: the parser would drop the body of its request."""
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + body
