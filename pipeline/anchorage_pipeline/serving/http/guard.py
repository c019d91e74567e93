"""Middleware for all requests: allowed hosts, limits on time and memory, response headers, and metrics."""

import asyncio
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anchorage.errors import AnchorageError, ResourceError, UsageError
from anchorage_pipeline.serving.batching import OverloadedError
from anchorage_pipeline.serving.http.problems import respond
from anchorage_pipeline.serving.service import Service
from anchorage_pipeline.tracing import span

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A report is one page with its scripts and styles in it: it runs apart from the service, which it cannot call.
_REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "sandbox allow-scripts; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_RETRY_SECONDS = 1  # after the memory for bodies was full
_LONG = ("/v1/releases/current", "/v1/releases/compared")  # routes that load a release


class Guard:
    """Wraps the application.

    A service that listens on the loopback answers only requests that name it by a loopback name, so that no web page
    can reach it through a name of its own that points there.

    Args:
        app: the application.
        service: its service.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self._service = app, service
        limits = service.settings.limits
        self._seconds, self._long_seconds = limits.request_seconds, limits.switch_seconds
        self._held, self._most_held = 0, limits.held_bytes
        self._hosts = _LOOPBACK if service.settings.host in _LOOPBACK else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = _method(scope)
        if scope["method"] == "HEAD":  # answered as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        status, held, started = 0, 0, perf_counter()
        headers = _HEADERS | {
            "content-security-policy": _REPORT_POLICY if scope["path"].startswith("/report/") else _POLICY
        }

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message["headers"], *(each for each in added if each[0] not in present)]
            await send(message)

        async def receive_bounded() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            if self._held + size > self._most_held:
                raise OverloadedError(
                    f"Expected bodies of at most {self._most_held} bytes at once. Received: more", _RETRY_SECONDS
                )
            self._held, held = self._held + size, held + size
            return message

        seconds = self._long_seconds if scope["path"] in _LONG else self._seconds
        try:
            if self._hosts and _host(scope) not in self._hosts:
                names = ", ".join(self._hosts)
                raise UsageError("E_HOST", f"Expected one of {names} as host. Received: another one")
            with span(method) as current:
                async with asyncio.timeout(seconds):
                    await self.app(scope, receive_bounded, send_guarded)
                if current is not None:
                    route = getattr(scope.get("route"), "path", "none")  # known only now
                    current.update_name(f"{method} {route}")
                    current.set_attributes({"http.route": route, "http.response.status_code": status})
        except TimeoutError:
            error = ResourceError(
                "E_DEADLINE", f"Expected to answer within {seconds:g} s. Received: a request that took longer"
            )
            await self._refuse(error, scope, receive, send_guarded, status)
        except AnchorageError as error:
            await self._refuse(error, scope, receive, send_guarded, status)
        finally:
            self._held -= held
            route = getattr(scope.get("route"), "path", "none")
            self._service.metrics.requests.labels(method, route, str(status or 499)).inc()
            self._service.metrics.request_seconds.labels(route).observe(perf_counter() - started)

    async def _refuse(self, error: AnchorageError, scope: Scope, receive: Receive, send: Send, status: int) -> None:
        if status:
            raise error  # the answer has begun: the connection is closed
        await respond(error, scope["path"])(scope, receive, send)


def _method(scope: Scope) -> str:
    """Return the method; one label for all unusual ones, as their number has no bound."""
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"


def _host(scope: Scope) -> str:
    """Return the name in the Host header, without the port."""
    values: list[Any] = [value for name, value in scope["headers"] if name == b"host"]
    text = values[0].decode("latin-1").lower() if values else ""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
