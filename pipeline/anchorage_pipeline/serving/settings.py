"""Settings of `anchorage serve`: every default and every limit."""

from dataclasses import dataclass, field
from pathlib import Path

from anchorage.data.limits import MAX_PIXELS

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits on what comes from outside.

    Args:
        body_bytes: largest body of a request.
        held_bytes: most bytes of bodies in memory at once; beyond, requests get 429.
        head_bytes: largest request line with its headers, up to what one read of the socket has beyond.
        image_bytes: largest encoded image.
        image_pixels: largest width times height of an image.
        k: most results per query.
        queries: most queries per request.
        items: most items per write.
        pending: most queries and items in work at once, waiting ones included; beyond, requests get 429.
        batch: most records per call of the model.
        request_seconds: time for the head of a request, and again from there to its answer.
        switch_seconds: the same for a request that loads a release.
    """

    body_bytes: int = 32 * MIB
    held_bytes: int = 512 * MIB
    head_bytes: int = MIB // 16
    image_bytes: int = 16 * MIB
    image_pixels: int = MAX_PIXELS
    k: int = 1_000
    queries: int = 64
    items: int = 1_000
    pending: int = 256
    batch: int = 32
    request_seconds: float = 15.0
    switch_seconds: float = 300.0


@dataclass(frozen=True)
class ServeSettings:
    """What to serve, and where.

    Args:
        release: path or URI of a folder of releases, whose current one is served, or of one release.
        host: address to listen on; other machines can reach the service only if it is not the loopback.
        http_port: port for HTTP; 0 for a free one.
        grpc_port: port for TensorFlow Serving's gRPC API; 0 for a free one, None for none.
        store: URL of the database of added items; "" for an SQLite file, see `default_store`.
        api_key: key that writes need; "" to refuse writes.
        keep_images: whether to store the images of added items, so that a later model can embed them.
        sample_queries: most queries per hour whose embeddings are stored for `anchorage drift`; 0 stores none.
        model_server: `tensorflow:HOST:PORT` or `triton:HOST:PORT`; "" to run the model in this process.
        limits: limits on what comes from outside.
        watch_seconds: time between looks at the pointer to the current release.
        follow_seconds: time between looks for items that other processes have written.
        sample_seconds: the hour of `sample_queries`.
        stop_seconds: time that open requests get when the service stops.
    """

    release: str | Path
    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int | None = None
    store: str = ""
    api_key: str = field(default="", repr=False)
    keep_images: bool = False
    sample_queries: int = 0
    model_server: str = ""
    limits: Limits = field(default_factory=Limits)
    watch_seconds: float = 1.0
    follow_seconds: float = 0.5
    sample_seconds: float = 3600.0
    stop_seconds: float = 20.0
