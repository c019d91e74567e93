"""One release in memory: its model, its index and the changes since; a service has one, and two while it switches."""

import ctypes
import gc
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Thread

import numpy as np

from anchorage.release import Release, open_release
from anchorage.release.items import ItemStore
from anchorage.release.manifest import check_pair
from anchorage.retrieval.index import load_index, load_vectors
from anchorage.retrieval.live import LiveIndex
from anchorage.retrieval.table import read_ids
from anchorage.serving.answers import Judgement
from anchorage.serving.embedders import Embedder, LocalEmbedder, TextEmbedder
from anchorage.serving.follower import Follower
from anchorage.serving.pictures import picture_paths
from anchorage.serving.queries import Checked, QueryCheck
from anchorage_pipeline.console import no_native_messages
from anchorage_pipeline.serving.batching import Batcher
from anchorage_pipeline.serving.settings import ServeSettings

_log = logging.getLogger(__name__)
_TRIED = 100  # rows in which a picture is looked for


@dataclass(frozen=True)
class Engine:
    """The parts of one release that a request needs.

    Args:
        release: the verified release.
        embedder: its model.
        check: the check of its queries.
        judgement: its thresholds and match probability.
        gallery: columns of the rows of its index, among them `id`.
    """

    release: Release
    embedder: Embedder
    check: QueryCheck
    judgement: Judgement
    gallery: Mapping[str, np.ndarray]

    @cached_property
    def text(self) -> TextEmbedder:
        """The encoder of descriptions; `E_NO_TEXT` if the release has none."""
        return TextEmbedder(self.release)

    @cached_property
    def picture_paths(self) -> dict[str, str]:
        """The paths of pictures by id, where the id is not the path itself."""
        return picture_paths(self.release, self.gallery)

    @cached_property
    def has_files(self) -> bool:
        """Whether one of the first rows of the gallery has a file of a picture."""
        return any(image_file(self, id) for id in self.gallery["id"][:_TRIED].tolist())

    @cached_property
    def published_rows(self) -> dict[str, int]:
        """The rows of the release's gallery by id."""
        return {id_: row for row, id_ in enumerate(self.gallery["id"].tolist())}


class Deployment:
    """A release that is served; all methods are called on the event loop's thread.

    Args:
        engine: the parts of the release.
        follower: its index, which follows the store of items.
        batcher: batches of its model.
    """

    def __init__(self, engine: Engine, follower: Follower, batcher: Batcher):
        self.version = engine.release.version
        self.fingerprint = engine.release.model_fingerprint
        self._parts: tuple[Engine, Follower, Batcher] | None = engine, follower, batcher
        self._users = 0
        self._retired = False

    def _open(self) -> tuple[Engine, Follower, Batcher]:
        if self._parts is None:
            raise RuntimeError(f"release {self.version} was freed")
        return self._parts

    @property
    def engine(self) -> Engine:
        return self._open()[0]

    @property
    def follower(self) -> Follower:
        return self._open()[1]

    @property
    def batcher(self) -> Batcher:
        return self._open()[2]

    @property
    def live(self) -> LiveIndex:
        """The index of this moment: a request takes it once."""
        return self.follower.live

    def copies(self, checked: Checked) -> list[str]:
        """Return the items with the same pixels or numbers as a query."""
        return self.follower.copies.ids(checked.pixels, self.engine.gallery["id"][checked.rows].tolist())

    def pixels(self, id: str) -> str:
        """Return the digest of the pixels or numbers of an item; "" if it is not known."""
        stored = self.follower.copies.pixels(id)
        return self.published_pixels(id) if stored is None else stored

    def published_pixels(self, id: str) -> str:
        """Return the digest of an item as the release has it; "" if it is not known."""
        row = self.engine.published_rows.get(id)
        return "" if row is None or "pixels" not in self.engine.gallery else self.engine.gallery["pixels"][row]

    @property
    def takes_pictures(self) -> bool:
        """Whether items are embedded from images."""
        return not self.engine.embedder.takes_vectors

    @property
    def has_pictures(self) -> bool:
        """Whether items may have pictures: images, and vectors if some of the gallery have files."""
        return self.takes_pictures or self.engine.has_files

    @property
    def freed(self) -> bool:
        """Whether the release is no longer in memory."""
        return self._parts is None

    @contextmanager
    def lease(self) -> Iterator["Deployment"]:
        """Keep the release in memory for the time of a request."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            self._free_if_idle()

    def retire(self) -> None:
        """Free the release when its last request ends."""
        self._retired = True
        self._free_if_idle()

    def _free_if_idle(self) -> None:
        if self._retired and not self._users and self._parts is not None:
            follower, self._parts = self.follower, None
            Thread(target=_stop_and_collect, args=(follower, self.version)).start()


def _stop_and_collect(follower: Follower, version: int) -> None:
    follower.stop()
    del follower
    gc.collect()  # TensorFlow's functions refer to one another
    _return_memory()
    _log.info("release %d is freed", version)


def _return_memory() -> None:
    """Give freed memory back to the system, which glibc else keeps: some 140 MiB after a switch of small releases."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # other libraries have none
        trim(0)


def load_deployment(
    settings: ServeSettings, version: int | None, store: ItemStore, batcher: Callable[[Embedder], Batcher]
) -> Deployment:
    """Verify a release, load it, apply the changes since, warm it up, and begin to follow the store; blocks.

    Args:
        settings: the settings of the service.
        version: a version in the folder of releases; None for the current one, or the release that was named.
        store: the items written since.
        batcher: makes the batches of a model.

    Raises:
        UsageError: `E_RELEASE_MISSING`.
        DataError: `E_RELEASE_DAMAGED`, `E_RELEASE_MIXED`, or another fault of the release's files.
    """
    release = open_release(settings.release, version)
    embedder = connect_embedder(settings, release)
    check_pair(release.model_fingerprint, embedder.fingerprint, "the embedder")
    index = load_index(release.index_folder, dimension=embedder.dimension)
    gallery = read_ids(release.gallery_path)
    live = LiveIndex(index, gallery, load_vectors(release.index_folder))
    limits = settings.limits
    check = QueryCheck(gallery, index.facts, embedder, limits.image_bytes, limits.image_pixels)
    engine = Engine(release, embedder, check, Judgement(release), gallery)
    _warm_up(engine, live, limits.batch)
    follower = Follower(live, store, fingerprint=release.model_fingerprint, embedder=embedder, check=check)
    follower.catch_up()
    if follower.left_out:
        _log.warning(
            "%d added items are left out: another model made their vectors, and their images are not kept",
            len(follower.left_out),
        )
    follower.start(settings.follow_seconds)
    return Deployment(engine, follower, batcher(embedder))


def connect_embedder(settings: ServeSettings, release: Release) -> Embedder:
    """Return the model of a release: in this process, or on the model server of the settings."""
    if not settings.model_server:
        with no_native_messages():
            return LocalEmbedder(release)
    from anchorage_pipeline.serving.model_servers import connect_server

    return connect_server(settings.model_server, release)


def _warm_up(engine: Engine, live: LiveIndex, batch: int) -> None:
    """Run the check, the model and the index on a single query and on a full batch."""
    record = np.ones(engine.embedder.input_dimension, np.float32) if engine.embedder.takes_vectors else _picture()
    record = engine.check(record).record
    for size in (1, batch):
        vectors = engine.embedder.embed([record] * size)
        live.search(vectors, 1)


def _picture() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 150)).save(buffer, "JPEG")
    return buffer.getvalue()


def image_file(engine: Engine, id: str) -> Path | None:
    """Return the file of a picture of the release's gallery: ids of other items name no file.

    The file lies in the folder of the release's data; its path is the id, or an attribute that vectors have.
    """
    root = engine.release.facts.get("data_root")
    if not root or id not in engine.published_rows:
        return None
    folder = Path(root).resolve()
    try:
        path = (folder / engine.picture_paths.get(id, id)).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, ValueError):  # texts that name no file: one is too long, another has a NUL in it
        return None
