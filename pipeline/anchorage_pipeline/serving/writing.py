"""Writes of items: all of a request or nothing, durable when they are acknowledged, and searchable from then on."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.items import Item, ItemFault, item_faults, refused
from anchorage.release.items import OutdatedError
from anchorage_pipeline.serving.deployment import Deployment, image_file
from anchorage_pipeline.serving.service import Embedded, Served, Service


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Put:
    """An item to add or to change; what is None stays as it is.

    Args:
        id: unique name.
        label: class name.
        attributes: text values by name.
        image: an encoded image.
        vector: an embedding of the release's dimension or, for a release of vectors, a vector to embed.
        fault: why the item cannot be used, if that is known already.
    """

    id: str
    label: str | None = None
    attributes: Mapping[str, str] | None = None
    image: bytes | None = None
    vector: np.ndarray | None = None
    fault: AnchorageError | None = None


@dataclass(frozen=True)
class Written:
    """A write that is durable: the number of its last change, and the release that embedded it."""

    change: int
    release: Served


class ItemsRefusedError(DataError):
    """A write of which nothing was applied, with all its faults."""

    def __init__(self, faults: Sequence[ItemFault]):
        error = refused(faults)
        super().__init__(error.code, error.message)
        self.items = list(faults)


async def write(service: Service, puts: Sequence[Put], deletes: Sequence[str] = ()) -> Written:
    """Put and delete items in one transaction.

    If the release is switched meanwhile, images are embedded again with the new model.

    Returns:
        The change, after its commit; searches of this service see it, and other services follow.

    Raises:
        DataError: `E_ITEMS_EMPTY`; `ItemsRefusedError` (`E_ITEMS_REFUSED`) with every fault of every item.
        UsageError: `E_RELEASE_CHANGED` if an embedding was given for the model that is no longer served.
        ResourceError: `E_STORE_UNAVAILABLE`.
    """
    if not puts and not deletes:
        raise DataError("E_ITEMS_EMPTY", "Expected at least one item to write or delete. Received: none")
    while True:
        with service.releases.pick().lease() as deployment:
            embedded = await _embed(service, deployment, puts)
            # The commit continues if the client disconnects: committed items must become searchable.
            written = await asyncio.shield(asyncio.create_task(_commit(service, deployment, puts, embedded, deletes)))
        if written is not None:
            service.metrics.writes.labels("put").inc(len(puts))
            service.metrics.writes.labels("delete").inc(len(deletes))
            return written
        if any(put.vector is not None for put in puts) and not deployment.engine.embedder.takes_vectors:
            raise UsageError(
                "E_RELEASE_CHANGED",
                "Expected embeddings of the served model. Received: ones for the model before it; embed and send them "
                "again",
            )


async def _embed(
    service: Service, deployment: Deployment, puts: Sequence[Put]
) -> list[Embedded | AnchorageError | None]:
    """Return the embedding of each item, its fault, or None for one that keeps the embedding that it has."""

    async def embed(put: Put) -> Embedded | AnchorageError | None:
        if put.fault or (put.image is None and put.vector is None):
            return put.fault
        try:
            return await service.embed(deployment, put.image, put.vector)
        except AnchorageError as error:
            return error

    return await asyncio.gather(*(embed(put) for put in puts))


async def _commit(
    service: Service,
    deployment: Deployment,
    puts: Sequence[Put],
    embedded: Sequence[Embedded | AnchorageError | None],
    deletes: Sequence[str],
) -> Written | None:
    """Store and apply a batch; None if another model is served by now."""
    releases, threads = service.releases, service.threads
    async with releases.writing:
        current = releases.pick()
        if current.fingerprint != deployment.fingerprint:
            return None
        change = await threads.timed("write", threads.store, _store, service, current, puts, embedded, deletes)
    return Written(change, Served(current.version, current.fingerprint))


def _store(
    service: Service,
    current: Deployment,
    puts: Sequence[Put],
    embedded: Sequence[Embedded | AnchorageError | None],
    deletes: Sequence[str],
) -> int:
    """Check a batch against the items as they are, commit it and apply it; blocks."""
    follower = current.follower
    while True:
        seen = follower.catch_up()
        try:
            change = follower.write(_states(service, current, puts, embedded, deletes), seen)
            break
        except OutdatedError:  # what the batch leaves as it is must be what another gateway has written meanwhile
            continue
    for deployment in service.releases.loaded:
        deployment.follower.catch_up()
    return change


def _states(
    service: Service,
    current: Deployment,
    puts: Sequence[Put],
    embedded: Sequence[Embedded | AnchorageError | None],
    deletes: Sequence[str],
) -> list[Item]:
    """Return the states of a batch after it; `ItemsRefusedError` with every fault."""
    follower, live = current.follower, current.live
    items, faults = [], []
    for place, (put, each) in enumerate(zip(puts, embedded, strict=True)):
        try:
            items.append(_item(service, current, put, each))
        except AnchorageError as error:
            faults.append(ItemFault(place, put.id, error.code, error.message))
            stand_in = np.ones(live.dimension, np.float32)  # so that the item's other faults are found
            items.append(Item(put.id, put.label or "", put.attributes or {}, stand_in))
    items += [Item(id_, deleted=True) for id_ in deletes]
    faults += item_faults(items, live.dimension, follower.knows)
    if faults:
        raise ItemsRefusedError(sorted(faults, key=lambda fault: fault.place))
    return items


def _item(service: Service, current: Deployment, put: Put, embedded: Embedded | AnchorageError | None) -> Item:
    """Return the item to store; what was not given is taken from the item as it is."""
    if isinstance(embedded, AnchorageError):
        raise embedded
    before = current.live.item(put.id)
    if before is None and put.id in current.follower.left_out:
        before = service.releases.store.get(put.id)
    image = put.image if service.settings.keep_images else None
    if embedded is None:
        if before is None or put.id in current.follower.left_out:
            kind = "a new item" if before is None else "an item whose vector another model made"
            raise UsageError("E_ITEM_EMPTY", f"Expected an image or a vector for {kind}. Received: neither")
        vector, pixels, image = before.vector, current.pixels(put.id), _image_of(service, current, put.id)
    else:
        vector, pixels = embedded.vector, embedded.pixels
    label, attributes = put.label, put.attributes
    if before is not None:
        label = before.label if label is None else label
        attributes = before.attributes if attributes is None else attributes
    return Item(put.id, label or "", attributes or {}, vector, image=image, pixels=pixels)


def _image_of(service: Service, current: Deployment, id: str) -> bytes | None:
    """Return the image of an item, so that it stays with the item when its label changes; None if none is kept."""
    if not service.settings.keep_images:
        return None
    stored = service.releases.store.get(id)
    if stored is not None and not stored.deleted:
        return stored.image
    file = image_file(current.engine, id)
    return None if file is None else file.read_bytes()
