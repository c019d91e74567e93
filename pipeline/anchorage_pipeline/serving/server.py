"""The process of `anchorage serve`: ports, start, and a stop that answers the open requests first."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial

import uvicorn
import uvloop

from anchorage.errors import ResourceError
from anchorage_pipeline.serving.http.app import create_app
from anchorage_pipeline.serving.http.connections import Connection
from anchorage_pipeline.serving.service import Service
from anchorage_pipeline.serving.settings import ServeSettings

_BACKLOG = 1024  # connections that wait to be accepted
_KEEP_ALIVE = 30  # seconds that a connection without requests stays open


class _Server(uvicorn.Server):
    """Leaves signals to the caller."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: ServeSettings, ready: Callable[[Service, int, int | None], None]) -> None:
    """Serve until SIGTERM or SIGINT; returns when all open requests are answered.

    Args:
        settings: what to serve, and where.
        ready: called with the service, its HTTP port and its gRPC port or None, when searches are answered.

    Raises:
        AnchorageError: `E_PORT_TAKEN`, or the fault of a release or store that cannot be used.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, ready))


async def _serve(settings: ServeSettings, ready: Callable[[Service, int, int | None], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = _listen(settings.host, settings.http_port)
    service = Service(settings)
    config = uvicorn.Config(
        create_app(service),
        http=partial(Connection, limits=settings.limits),  # type: ignore[arg-type]
        ws="none",  # a connection that asks for a web socket would leave the limits of `Connection`
        log_level="error",  # it warns of each request that is no HTTP, as often as clients like
        access_log=False,
        lifespan="off",
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.stop_seconds),
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopped = asyncio.create_task(stop.wait())
    try:
        starting = asyncio.create_task(service.start())
        await asyncio.wait([starting, serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            async with AsyncExitStack() as stack:
                grpc_port = await _start_grpc(stack, service)
                ready(service, listener.getsockname()[1], grpc_port)
                await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        else:
            starting.cancel()
    finally:
        service.stopping = True
        server.should_exit = True
        await serving
        await service.stop()
        stopped.cancel()


async def _start_grpc(stack: AsyncExitStack, service: Service) -> int | None:
    """Serve gRPC too, if the settings want it; return the port."""
    port = service.settings.grpc_port
    if port is None:
        return None
    from anchorage_pipeline.serving.prediction_grpc import serve_grpc

    return await stack.enter_async_context(serve_grpc(service, service.settings.host, port))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ResourceError(
            "E_PORT_TAKEN", f"Expected to listen on {host}, port {port}. Received: {error}. Choose another with --http"
        ) from error
