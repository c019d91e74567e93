"""The threads of the service: blocking work is done off the event loop, each kind in a pool of its own."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from time import perf_counter
from typing import Any

from anchorage_pipeline.serving.metrics import Metrics
from anchorage_pipeline.tracing import span


class Threads:
    """Pools of threads.

    Args:
        metrics: gets the time of the stages.

    Attributes:
        model: one thread, which calls the model.
        work: a thread per core, for the checks of queries and the searches.
        store: one thread, for everything that changes the items, so that changes are applied one after another.
        loading: one thread, for loading releases and building indexes.
    """

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self.model = ThreadPoolExecutor(1, "model")
        self.work = ThreadPoolExecutor(max(2, os.cpu_count() or 2), "work")
        self.store = ThreadPoolExecutor(1, "store")
        self.loading = ThreadPoolExecutor(1, "loading")

    async def run(self, pool: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a blocking function in a thread of a pool."""
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    async def timed(self, stage: str, pool: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a blocking function in a thread of a pool, as a stage whose time is measured."""
        started = perf_counter()
        try:
            with span(stage):
                return await self.run(pool, function, *arguments)
        finally:
            self._metrics.stage_seconds.labels(stage).observe(perf_counter() - started)

    def stop(self) -> None:
        """Wait for the work that runs, and drop what waits."""
        for pool in (self.model, self.work, self.store, self.loading):
            pool.shutdown(wait=True, cancel_futures=True)
