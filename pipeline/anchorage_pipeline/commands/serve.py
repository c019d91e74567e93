"""`anchorage serve`: a service for searches in a release and changes of its gallery."""

import argparse
import gc
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage.errors import UsageError
from anchorage.extras import needs_extra
from anchorage_pipeline.console import answer
from anchorage_pipeline.logs import add_log, choose_format, create_formatter, set_context
from anchorage_pipeline.options import add_release, find_release, whole
from anchorage_pipeline.serving.settings import ServeSettings
from anchorage_pipeline.startup import load_tensorflow
from anchorage_pipeline.tracing import start_tracing

if TYPE_CHECKING:
    from anchorage_pipeline.serving.service import Service

_KEY = "ANCHORAGE_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to serve, where, and who may write."""
    add_release(parser)
    parser.add_argument(
        "--host",
        default=ServeSettings.host,
        metavar="ADDRESS",
        help="address to listen on (default: %(default)s, which only this machine can reach)",
    )
    parser.add_argument(
        "--http",
        type=_port,
        default=ServeSettings.http_port,
        metavar="PORT",
        help="port for HTTP, 0 for a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--grpc", type=_port, metavar="PORT", help="port for TensorFlow Serving's gRPC API, 0 for a free one"
    )
    parser.add_argument(
        "--model-server",
        default="",
        metavar="KIND:HOST:PORT",
        help="embed on a model server with the folder of releases, tensorflow:HOST:PORT or triton:HOST:PORT",
    )
    parser.add_argument(
        "--store",
        default="",
        metavar="URL",
        help="database of added items, such as postgresql://user@host/name (default: items.sqlite beside the releases)",
    )
    parser.add_argument("--key-file", metavar="FILE", help=f"file of the key that writes need (default: ${_KEY})")
    parser.add_argument(
        "--keep-images", action="store_true", help="store images of added items, so that later models can embed them"
    )

    parser.add_argument(
        "--sample-queries",
        type=whole,
        default=ServeSettings.sample_queries,
        metavar="N",
        help="store the embeddings of at most N queries per hour for `anchorage drift` (default: %(default)s, none)",
    )
    add_log(parser)


def run(options: argparse.Namespace) -> None:
    """Serve until the process receives a signal to stop.

    Raises:
        UsageError: E_KEY_FILE, E_MODEL_SERVER_ADDRESS, E_RELEASE_MISSING; E_EXTRA_MISSING without the packages of the
            extra `serve`.
        ResourceError: E_PORT_TAKEN, E_STORE_UNAVAILABLE, E_MODEL_SERVER.
    """
    settings = ServeSettings(
        release=find_release(options.release),
        host=options.host,
        http_port=options.http,
        grpc_port=options.grpc,
        model_server=options.model_server,
        store=options.store,
        api_key=_read_key(options.key_file),
        keep_images=options.keep_images,
        sample_queries=options.sample_queries,
    )
    level = logging.WARNING if options.quiet else logging.INFO
    choose_format(options.log)
    log = os.fdopen(os.dup(2), "w", buffering=1)  # stays when native messages are dropped
    handler = logging.StreamHandler(log)
    handler.setFormatter(create_formatter("%(levelname).1s %(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    set_context(node="gateway")
    start_tracing()
    logging.getLogger("anchorage_pipeline.serving").setLevel(level)
    load_tensorflow()
    with needs_extra("serve", "`anchorage serve`"):
        from anchorage_pipeline.serving.server import serve
    gc.freeze()  # what was imported stays: collections need not pass over it
    serve(settings, _announce)


def _announce(service: "Service", port: int, grpc_port: int | None) -> None:
    settings, deployment = service.settings, service.releases.pick()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    grpc = None if grpc_port is None else f"{host}:{grpc_port}"
    facts = {"release": settings.release, "version": deployment.version, "rows": deployment.live.rows}
    answer({"url": url, "grpc": grpc, **facts})
    print(f"serves release {deployment.version} of {settings.release}: {deployment.live.rows:,} items at {url}")
    if grpc:
        print(f"and TensorFlow Serving's gRPC API at {grpc}")
    if not settings.api_key:
        print(f"writes are refused: no key in ${_KEY} and no --key-file")
    sys.stdout.flush()


def _read_key(file: str | None) -> str:
    if file is None:
        return os.environ.get(_KEY, "").strip()
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError("E_KEY_FILE", f"Expected a file with a key at {file}. Received: {error}") from error
    if not key:
        raise UsageError("E_KEY_FILE", f"Expected a key in {file}. Received: an empty file")
    return key


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, received {text!r:.60}")
    return int(text)
