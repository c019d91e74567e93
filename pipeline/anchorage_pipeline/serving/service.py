"""The service without its transport: searches in a release that can be switched meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.retrieval.filters import Filter
from anchorage.serving.answers import Answer
from anchorage.vectors import unit_vectors
from anchorage_pipeline.serving.batching import Admission
from anchorage_pipeline.serving.deployment import Deployment, Engine
from anchorage_pipeline.serving.metrics import Metrics
from anchorage_pipeline.serving.releases import Releases
from anchorage_pipeline.serving.sampling import QuerySampler
from anchorage_pipeline.serving.settings import ServeSettings
from anchorage_pipeline.serving.threads import Threads
from anchorage_pipeline.tracing import annotate, span


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Query:
    """What to search for: exactly one of the first four.

    Args:
        image: an encoded image.
        vector: an embedding of the release's dimension or, for a release of vectors, a vector to embed.
        id: id of an item, which is left out of its own results.
        text: a description, for a release with an encoder for texts.
        k: number of results.
        where: conditions on the results.
        min_score: least similarity of a result.
    """

    image: bytes | None = None
    vector: np.ndarray | None = None
    id: str | None = None
    text: str | None = None
    k: int = 10
    where: Filter | None = None
    min_score: float | None = None


class Found(NamedTuple):
    """The answer to a query; `limited` if fewer than `k` items match it, whatever their score."""

    answer: Answer
    limited: bool


class Embedded(NamedTuple):
    """An image or a vector that was embedded.

    Args:
        vector: `(D,)` embedding of unit length.
        copies: ids of the items with the same pixels or numbers.
        pixels: digest of these; "" if it is not known.
    """

    vector: np.ndarray
    copies: list[str]
    pixels: str


class Served(NamedTuple):
    """The release that answered."""

    version: int
    fingerprint: str


class Service:
    """Serves the current release of a folder, and switches when another one becomes current.

    All methods are called on the thread of one event loop.

    Args:
        settings: what to serve, and the limits.

    Attributes:
        metrics: what the service measures of itself.
        admission: the bound on work. Transports ask it before they read a request, and enter it when it is read: a
            request that arrives slowly takes no place of others.
        releases: the releases in memory.
    """

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self.metrics = Metrics()
        self.threads = Threads(self.metrics)
        self.admission = Admission(settings.limits.pending, settings.limits.request_seconds / 2)
        self.releases = Releases(settings, self.metrics, self.threads)
        self.sampler = QuerySampler(settings.sample_queries, settings.sample_seconds, self.threads, self.metrics)
        self.stopping = False

    async def start(self) -> None:
        """Load the release and begin to follow the pointer and the items.

        Raises:
            AnchorageError: if the release or the store cannot be used.
        """
        await self.releases.start()
        await self.sampler.start(self.releases.store_url)

    async def stop(self) -> None:
        """Free everything; open requests have been answered."""
        self.stopping = True
        await self.sampler.stop()
        await self.releases.stop()
        self.threads.stop()

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.releases.current is not None and not self.stopping

    def measure(self) -> None:
        """Set the gauges."""
        self.metrics.pending.set(self.admission.pending)
        self.releases.measure()

    @asynccontextmanager
    async def admitted(self, count: int = 1) -> AsyncIterator[None]:
        """Do `count` pieces of work within the bound, or raise `E_OVERLOADED`."""
        self.admission.enter(count)
        started = perf_counter()
        try:
            yield
        finally:
            self.admission.leave(count, perf_counter() - started)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Deployment]:
        """Admit one piece of work that reads of the current release, and keep the release in memory for it."""
        async with self.admitted():
            with self.releases.pick().lease() as deployment:
                yield deployment

    async def search(
        self, queries: Sequence[Query], version: int | None = None
    ) -> tuple[Served, list[Found | AnchorageError]]:
        """Answer queries in one release.

        Args:
            queries: the queries.
            version: version of a loaded release; None for the current one.

        Returns:
            The release, and for each query its answer, or the error of one that cannot be used.
        """
        with self.releases.pick(version).lease() as deployment:
            annotate(anchorage__release=deployment.version, anchorage__queries=len(queries))
            found = await asyncio.gather(
                *(self._search(deployment, query) for query in queries), return_exceptions=True
            )
        results: list[Found | AnchorageError] = []
        for each in found:
            if not isinstance(each, Found | AnchorageError):
                raise each
            results.append(each)
        answers = [each.answer for each in results if isinstance(each, Found)]
        self.metrics.queries.inc(len(answers))
        self.metrics.unknown.inc(sum(bool(answer.unknown) for answer in answers))
        return Served(deployment.version, deployment.fingerprint), results

    async def _search(self, deployment: Deployment, query: Query) -> Found:
        vector, own = await self._vector(deployment, query)
        found, nearest = await self.threads.timed(
            "search", self.threads.work, _look_up, deployment.engine, deployment.live, query, vector, own
        )
        if query.image is not None or query.vector is not None:  # another kind of query is no picture from outside
            unknown = found.answer.unknown
            self.sampler.offer(deployment.version, deployment.fingerprint, vector, nearest, unknown)
        return found

    async def _vector(self, deployment: Deployment, query: Query) -> tuple[np.ndarray, list[str]]:
        """Return the embedding of a query, and the ids of the items that it leaves out: its own copies."""
        engine = deployment.engine
        if query.id is not None:
            vector = deployment.live.vector(query.id)
            if vector is None:
                raise UsageError("E_ITEM_UNKNOWN", f"Expected the id of an item. Received: {query.id[:200]!r}")
            return vector, [query.id]
        if query.text is not None:
            texts = [query.text]
            return (await self.threads.timed("embed", self.threads.model, lambda: engine.text.embed(texts)))[0], []
        embedded = await self.embed(deployment, query.image, query.vector)
        return embedded.vector, embedded.copies

    async def embed(self, deployment: Deployment, image: bytes | None, vector: np.ndarray | None) -> Embedded:
        """Check an image or a vector and embed it.

        Raises:
            UsageError: `E_QUERY_KIND` for an image, where the release takes vectors.
            DataError: a fault of the image or the vector.
        """
        engine = deployment.engine
        if vector is not None and not engine.embedder.takes_vectors:
            return Embedded(_embedding(vector, deployment.live.dimension), [], "")
        if (image is not None) == engine.embedder.takes_vectors:
            kind = "a vector, since this release embeds vectors" if engine.embedder.takes_vectors else "an image"
            raise UsageError("E_QUERY_KIND", f"Expected {kind}. Received: {'an image' if image else 'nothing'}")
        record = image if image is not None else np.asarray(vector, np.float32)
        checked = await self.threads.timed("check", self.threads.work, engine.check, record)
        if checked.fault:
            raise DataError(checked.fault.code, checked.fault.message)
        with span("embed"):
            embedding = await deployment.batcher.submit(checked.record)
        return Embedded(embedding, deployment.copies(checked), checked.pixels)


def _look_up(engine: Engine, live: Any, query: Query, vector: np.ndarray, own: list[str]) -> tuple[Found, float | None]:
    """Search the items nearest to a vector and judge them; return the similarity of the nearest of all, too."""
    judgement, k, vectors = engine.judgement, query.k, vector[None]
    nearest: float | None = None
    if query.text is not None:  # matches and unknown queries were measured between images
        (hits,) = live.search(vectors, k, query.where)
        columns = hits.ids.tolist(), hits.labels.tolist(), hits.scores.tolist()
        answer = Answer(*columns, likely=None, probabilities=None, unknown=None, fault=None, attributes=hits.attributes)
    else:
        reach = judgement.reach(k)
        (hits,) = live.search(vectors, reach, None, [own])
        nearest = float(hits.scores[0]) if len(hits.scores) else None
        kept = k if query.where is None else reach
        answer = judgement.answer(
            hits.ids.tolist(), hits.labels.tolist(), hits.scores, kept, left_out=own, attributes=hits.attributes
        )
        if query.where is not None:
            (hits,) = live.search(vectors, k, query.where, [own])
            answer = judgement.narrow(
                answer, hits.ids.tolist(), hits.labels.tolist(), hits.scores, attributes=hits.attributes
            )
    limited = len(answer.ids) < k
    return Found(_cut(answer, query.min_score), limited), nearest


def _cut(answer: Answer, min_score: float | None) -> Answer:
    """Drop the results below a score."""
    if min_score is None:
        return answer
    kept = sum(score >= min_score for score in answer.scores)
    columns = ("ids", "labels", "scores", "likely", "probabilities", "attributes")
    values = {name: getattr(answer, name) for name in columns}
    return answer._replace(**{name: value[:kept] for name, value in values.items() if value is not None})


def _embedding(vector: np.ndarray, dimension: int) -> np.ndarray:
    """Return an embedding that was given as such, at unit length."""
    vector = np.asarray(vector, np.float32)
    if vector.shape != (dimension,):
        raise DataError("E_QUERY_SHAPE", f"Expected {dimension} numbers. Received: shape {vector.shape}")
    if not np.isfinite(vector).all() or not vector.any():
        raise DataError("E_VECTOR_UNUSABLE", "Expected finite numbers that are not all zero")
    scaled = vector / np.abs(vector).max()  # first, so that the squares of large numbers do not overflow
    return unit_vectors(scaled)
