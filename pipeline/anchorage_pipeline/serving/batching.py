"""Dynamic batches: records that arrive while a batch runs form the next one, so an idle service adds no delay."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from time import perf_counter
from typing import Any

from anchorage.errors import DataError, ResourceError


class Admission:
    """Counts the work that was accepted and is not done, and refuses what goes beyond the bound.

    The bound is a number, and a time: on a slow machine, work that would wait too long is refused at once instead of
    failing at its deadline.

    Args:
        most: bound on queries and items in work, waiting ones included.
        wait_seconds: longest time that new work may be expected to wait, by the speed of the work before it.
    """

    def __init__(self, most: int, wait_seconds: float):
        self.most, self.wait_seconds = most, wait_seconds
        self.pending = 0
        self._per_second = 100.0  # pieces of work done per second, a running mean

    def enter(self, count: int = 1) -> None:
        """Accept `count` pieces of work.

        Raises:
            OverloadedError: if they go beyond the bound.
        """
        self.check(count)
        self.pending += count

    def check(self, count: int = 1) -> None:
        """Refuse work that would not be accepted now, before its request is read.

        Raises:
            OverloadedError: as for `enter`.
        """
        if self.pending + count > self.most or self.pending > self.wait_seconds * self._per_second:
            raise OverloadedError(
                f"Expected at most {self.most} queries and items in work at once, fewer if each takes long. Received: "
                f"one more while {self.pending} are",
                self.retry_seconds,
            )

    def leave(self, count: int = 1, seconds: float = 0.0) -> None:
        """Finish `count` pieces of work, which took this long."""
        if seconds > 0:
            rate = self.pending / seconds  # Little's law: as many are in work as arrive in the time that each takes
            self._per_second += 0.05 * (rate - self._per_second)
        self.pending -= count

    @property
    def retry_seconds(self) -> int:
        """Whole seconds, from 1 to 30, after which about half of the work is done."""
        return min(30, max(1, round(self.pending / 2 / max(self._per_second, 1e-3))))


class OverloadedError(ResourceError):
    """A bound of the service is reached; `retry_seconds` is when to try again."""

    def __init__(self, message: str, retry_seconds: int):
        super().__init__("E_OVERLOADED", f"{message}; try again in {retry_seconds} s")
        self.retry_seconds = retry_seconds


class Batcher:
    """Runs a function over batches of records in one worker thread.

    A batch with a record that cannot be used, by a `DataError`, is run again record by record: others are not affected.
    A record whose caller has gone, by its deadline or a closed connection, is dropped before it is run.

    Args:
        run: maps a list of records to as many results; called in the executor, one batch at a time.
        most: records per batch.
        executor: where `run` is called.
        observe: called with the size of each batch, the seconds that its oldest record waited, and those it ran.
    """

    def __init__(
        self,
        run: Callable[[Any], Any],
        most: int,
        executor: Executor,
        observe: Callable[[int, float, float], None] = lambda size, waited, ran: None,
    ):
        self._run, self._most, self._executor, self._observe = run, most, executor, observe
        self._waiting: deque[tuple[Any, asyncio.Future, float]] = deque()
        self._task: asyncio.Task | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def submit(self, record: Any) -> Any:
        """Run one record as part of a batch and return its result."""
        future: asyncio.Future = asyncio.get_running_loop().create_future()
        self._waiting.append((record, future, perf_counter()))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch: list[tuple[Any, asyncio.Future, float]] = []
            while self._waiting and len(batch) < self._most:
                entry = self._waiting.popleft()
                if not entry[1].done():  # cancelled: nobody waits for it
                    batch.append(entry)
            if not batch:
                continue
            started = perf_counter()
            try:
                results = await loop.run_in_executor(self._executor, self._run, [record for record, _, _ in batch])
            except Exception as error:
                if isinstance(error, DataError) and len(batch) > 1:
                    await self._run_each(batch)
                    continue
                results = [error] * len(batch)
            else:
                self._observe(len(batch), started - batch[0][2], perf_counter() - started)
            for (_, future, _), result in zip(batch, results, strict=True):
                _settle(future, result)

    async def _run_each(self, batch: list[tuple[Any, asyncio.Future, float]]) -> None:
        for record, future, _ in batch:
            if future.done():
                continue
            try:
                (result,) = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, [record])
            except Exception as error:
                result = error
            _settle(future, result)


def _settle(future: asyncio.Future, result: Any) -> None:
    """Give a record's caller its result or its error, unless the caller has gone."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
