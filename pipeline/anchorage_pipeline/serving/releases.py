"""The releases in memory: the current one, and a switch to another."""

import asyncio
import logging
from typing import NamedTuple

from anchorage.errors import AnchorageError, ResourceError, UsageError
from anchorage.release import current_version, roll_back
from anchorage.release.items import ItemStore, default_store
from anchorage.release.places import find_place
from anchorage.release.reading import no_release
from anchorage.serving.embedders import Embedder
from anchorage.storage import parent
from anchorage_pipeline.logs import set_context
from anchorage_pipeline.serving.batching import Batcher
from anchorage_pipeline.serving.deployment import Deployment, load_deployment
from anchorage_pipeline.serving.metrics import Metrics
from anchorage_pipeline.serving.settings import ServeSettings
from anchorage_pipeline.serving.threads import Threads

_log = logging.getLogger(__name__)


class Refused(NamedTuple):
    """A release that became current and cannot be used, by its version, and why."""

    version: int | None
    error: Exception

    def __str__(self) -> str:
        return f"release {self.version} was refused: {self.error}"


class Releases:
    """Keeps the current release of a folder in memory, and follows its pointer.

    A new release is loaded next to the served one, warmed up, and then shown to the requests that begin from then on.
    One that cannot be used is refused, and the served one goes on.

    Args:
        settings: what to serve.
        metrics: gets the state of the releases.
        threads: where blocking work is done.

    Attributes:
        current: the served release; None until it is loaded.
        compared: another release that searches can name, or None.
        follows_pointer: whether a folder of releases is served, not the folder of one release.
        store_url: URL of the database of the items.
        refused: the last release that became current, if it is not served.
        writing: held while items are committed, and while the release is switched.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, threads: Threads):
        self._settings, self._metrics, self._threads = settings, metrics, threads
        self.current: Deployment | None = None
        self.compared: Deployment | None = None
        self.follows_pointer = True
        self.store_url = ""
        self.refused: Refused | None = None
        self.writing = asyncio.Lock()
        self._store: ItemStore | None = None
        self._switching = asyncio.Lock()
        self._pointer: int | None = None  # version that the pointer had when it was last looked at
        self._watcher: asyncio.Task | None = None

    async def start(self) -> None:
        """Load the release and begin to follow the pointer and the items.

        Raises:
            AnchorageError: if the release or the store cannot be used.
        """
        self._store = await self._threads.run(self._threads.store, self._open_store)
        if self.follows_pointer:
            self._pointer = await self._threads.run(self._threads.loading, current_version, self._settings.release)
        self._show(await self._load(None))
        if self.follows_pointer:
            self._watcher = asyncio.create_task(self._follow_pointer())

    async def stop(self) -> None:
        """Stop following, free the releases and close the store."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        followers = [deployment.follower for deployment in self.loaded]
        self.forget()
        if self.current is not None:
            self.current.retire()
            self.current = None
        for follower in followers:
            await self._threads.run(self._threads.loading, follower.stop)
        if self._store is not None:
            self._store.close()

    @property
    def store(self) -> ItemStore:
        if self._store is None:
            raise ResourceError("E_NOT_READY", "Expected a service that has started. Received: a request before that")
        return self._store

    @property
    def loaded(self) -> list[Deployment]:
        """The releases in memory, the current one first."""
        return [each for each in (self.current, self.compared) if each is not None]

    def _open_store(self) -> ItemStore:
        """Find out what is served, and open the database of the items."""
        place = find_place(self._settings.release)
        self.follows_pointer = not place.is_release()
        if self.follows_pointer and current_version(place.address) is None:
            raise no_release(place)  # before a database is created there
        folder = place.address if self.follows_pointer else parent(place.address)
        self.store_url = self._settings.store or default_store(folder)
        return ItemStore(self.store_url)

    def pick(self, version: int | None = None) -> Deployment:
        """Return the current release, or a loaded one by its version.

        Raises:
            ResourceError: `E_NOT_READY` before the first release is loaded.
            UsageError: `E_RELEASE_NOT_LOADED`.
        """
        if self.current is None:
            raise ResourceError("E_NOT_READY", "Expected a release that is loaded. Received: a request before that")
        for deployment in self.loaded:
            if version in (None, deployment.version):
                return deployment
        raise UsageError(
            "E_RELEASE_NOT_LOADED",
            f"Expected a loaded release: {', '.join(str(each.version) for each in self.loaded)}. Received: {version}. "
            "POST it to /v1/releases/compared first",
        )

    async def switch(self, version: int) -> Deployment:
        """Make a version the current one: load it next to the served one, move the pointer, serve it.

        Raises:
            UsageError: `E_RELEASE_SINGLE` if the folder of one release is served; `E_RELEASE_MISSING`.
            DataError: if the release is damaged; the current one goes on.
        """
        if not self.follows_pointer:
            raise UsageError(
                "E_RELEASE_SINGLE", "Expected a service of a folder of releases. Received: one of a release"
            )
        async with self._switching:
            current, seen = self.current, self._pointer
            deployment = current if current and current.version == version else await self._load(version)
            try:
                move = self._threads.run(self._threads.loading, roll_back, self._settings.release, version)
                self._pointer = await move
                if deployment is not current:
                    await self._replace(deployment)
            except BaseException:
                self._pointer = seen  # where the pointer was moved, it is followed
                if deployment is not current:
                    deployment.retire()
                raise
            return deployment

    async def compare(self, version: int) -> Deployment:
        """Load a version next to the current one, for searches that name it; another such one is freed."""
        if not self.follows_pointer:
            raise UsageError(
                "E_RELEASE_SINGLE", "Expected a service of a folder of releases. Received: one of a release"
            )
        async with self._switching:
            current = self.pick()
            if version == current.version:
                return current
            if self.compared is None or self.compared.version != version:
                self.forget()
                self.compared = await self._load(version)
            return self.compared

    def forget(self) -> None:
        """Free the compared release."""
        if self.compared is not None:
            compared, self.compared = self.compared, None
            compared.retire()

    async def _load(self, version: int | None) -> Deployment:
        loading = self._threads.loading
        return await self._threads.run(loading, load_deployment, self._settings, version, self.store, self._batcher)

    def _batcher(self, embedder: Embedder) -> Batcher:
        return Batcher(embedder.embed, self._settings.limits.batch, self._threads.model, self._observe_batch)

    async def _replace(self, deployment: Deployment) -> None:
        """Serve a loaded release from the next request on; the old one is freed when its last request ends."""
        async with self.writing:
            await self._threads.run(self._threads.store, deployment.follower.catch_up)
            old = self.current
            self._show(deployment)
        if old is not None:
            old.retire()
        if self.compared is not None and self.compared.version == deployment.version:
            self.forget()
        self._metrics.switches.labels("done").inc()
        _log.info("release %d is served", deployment.version)

    def _show(self, deployment: Deployment) -> None:
        self.current, self.refused = deployment, None
        run = deployment.engine.release.facts.get("run_key")
        set_context(release=deployment.version, run=run and run[:12])
        self._metrics.release.clear()
        self._metrics.release.labels(str(deployment.version), deployment.fingerprint[:12]).set(1)
        self.measure()

    async def _follow_pointer(self) -> None:
        """Switch when the pointer on disk names another release; one that cannot be used is refused once."""
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            seen = self._pointer
            try:
                async with self._switching:
                    version = await self._threads.run(self._threads.loading, current_version, self._settings.release)
                    if version in (None, self._pointer):
                        if version is not None and version == self.pick().version:
                            self.refused = None  # what could not be read can be read again
                        continue
                    self._pointer = version
                    if self.current is None or self.current.version != version:
                        await self._replace(await self._load(version))
            except Exception as error:  # whatever is wrong with the new release, the current one is still served
                refused = Refused(self._pointer, error)
                if isinstance(error, ResourceError):
                    self._pointer = seen  # try again: a disk or a network may recover
                if str(refused) == str(self.refused):
                    continue  # such as a pointer that cannot be read
                self.refused = refused
                self._metrics.switches.labels("refused").inc()
                _log.warning("%s", self.refused, exc_info=not isinstance(error, AnchorageError))

    def _observe_batch(self, size: int, waited: float, ran: float) -> None:
        self._metrics.batch_size.observe(size)
        self._metrics.stage_seconds.labels("queue").observe(waited)
        self._metrics.stage_seconds.labels("embed").observe(ran)

    def measure(self) -> None:
        """Set the gauges of the current release."""
        if self.current is not None:
            follower = self.current.follower
            self._metrics.rows.set(follower.live.rows)
            self._metrics.shard_rows.clear()
            for number, rows in enumerate(follower.live.index.shards):
                self._metrics.shard_rows.labels(number).set(rows)
            self._metrics.changed_share.set(follower.live.changed_share())
            self._metrics.left_out.set(len(follower.left_out))
            self._metrics.rebuilds.set(follower.rebuilds)
            self._metrics.queue.set(len(self.current.batcher))

    def warnings(self) -> list[str]:
        """Sentences for everyone, without what the log has of paths and hosts."""
        warnings = []
        if self.refused:
            error = self.refused.error
            code = error.code if isinstance(error, AnchorageError) else "an internal error"
            warnings.append(
                f"release {self.refused.version} was refused: {code}; the log of the service has the reason"
            )
        if self.current is not None:
            follower = self.current.follower
            if follower.fault:
                warnings.append(
                    "changes of items are not applied, or the index is not rebuilt; the log of the service has why"
                )
            if count := len(follower.left_out):
                warnings.append(
                    f"{count} added items are left out: another model made their vectors, and their images are not kept"
                )
        return warnings
