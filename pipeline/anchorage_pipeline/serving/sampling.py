"""Samples of live queries for `anchorage drift`: embeddings without images, at most so many per hour."""

import asyncio
import logging
import random
import time

import numpy as np

from anchorage.errors import AnchorageError
from anchorage.release.query_samples import QueryStore, SampledQuery
from anchorage_pipeline.serving.metrics import Metrics
from anchorage_pipeline.serving.threads import Threads

_log = logging.getLogger(__name__)


class QuerySampler:
    """A reservoir of the queries of an hour, each with the same chance; at its end, they are stored.

    Args:
        most: queries per period.
        seconds: length of a period.
        threads: where the store is written.
        metrics: counts what is stored.
    """

    def __init__(self, most: int, seconds: float, threads: Threads, metrics: Metrics):
        self._most, self._seconds, self._threads, self._metrics = most, seconds, threads, metrics
        self._kept: list[SampledQuery] = []
        self._offered = 0
        self._store: QueryStore | None = None
        self._task: asyncio.Task | None = None

    async def start(self, url: str) -> None:
        """Open the store and begin the first period; does nothing if no queries are sampled."""
        if self._most:
            self._store = await self._threads.run(self._threads.store, QueryStore, url)
            self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Store what was sampled in this period."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()
        if self._store is not None:
            self._store.close()

    def offer(
        self, version: int, fingerprint: str, vector: np.ndarray, score: float | None, unknown: bool | None
    ) -> None:
        """Keep a query with probability `most` / number of queries of this period so far (Vitter's algorithm R)."""
        if self._task is None:
            return
        self._offered += 1
        place = self._offered - 1 if self._offered <= self._most else random.randrange(self._offered)
        if place >= self._most:
            return
        distance = None if score is None else 1 - score
        query = SampledQuery(time.time(), version, fingerprint, np.array(vector, np.float32), distance, unknown)
        if place < len(self._kept):
            self._kept[place] = query
        else:
            self._kept.append(query)

    async def flush(self) -> None:
        """Store the sample and begin another; where the store fails, the sample is lost and searches go on."""
        queries, self._kept, self._offered = self._kept, [], 0
        try:
            if queries and self._store is not None:
                await self._threads.run(self._threads.store, self._store.write, queries)
                self._metrics.sampled.inc(len(queries))
        except AnchorageError as error:
            _log.warning("%d sampled queries were not stored: %s", len(queries), error)

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self.flush()
