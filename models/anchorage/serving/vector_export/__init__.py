"""Vectors of a gallery for other programs: Parquet, JSON lines, PostgreSQL with pgvector, and LanceDB.

An export writes the rows in one fixed order, in batches that are each there as a whole or not at all, beside a mark
that says which gallery they belong to. So the same command resumes where it was stopped, and does nothing once it is
done.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from anchorage.errors import DataError
from anchorage.items import Item
from anchorage.retrieval.live import LiveIndex

_BATCH = 10_000  # rows


@dataclass(frozen=True)
class Rows:
    """The rows of a gallery.

    Args:
        identity: changes whenever a row does.
        total: number of rows.
        dimension: numbers per vector.
        attributes: names of the attributes that rows may have.
        read: function that yields the rows from a number on, always in the same order.
    """

    identity: str
    total: int
    dimension: int
    attributes: tuple[str, ...]
    read: Callable[[int], Iterator[Item]]


class Target(Protocol):
    """Where rows are written."""

    def begin(self, rows: Rows) -> int:
        """Prepare for these rows, dropping rows of another gallery, and return how many are there already."""
        ...

    def write(self, start: int, batch: list[Item]) -> None:
        """Write rows that follow the first `start` ones, durably, as a whole or not at all."""
        ...

    def finish(self, total: int) -> None:
        """Mark the export as complete; nothing else changes if it was complete before."""
        ...


def gallery_rows(live: LiveIndex, identity: str) -> Rows:
    """Return the rows of a live index, to which no changes are applied meanwhile.

    Args:
        live: the index.
        identity: of the release, such as `Release.content`, and of the items added since.
    """
    return Rows(
        f"{identity} {live.change}",
        live.rows,
        live.dimension,
        tuple(sorted(live.attribute_values())),
        lambda start: islice(live.items(), start, None),
    )


def export_vectors(rows: Rows, target: Target, report: Callable[[int, int], Any], batch: int = _BATCH) -> int:
    """Write all rows to a target, from where an earlier call was stopped.

    Args:
        rows: rows of a gallery.
        target: where they go.
        report: called with the number of rows written and the total, after each batch.
        batch: rows at once.

    Returns:
        The number of rows that were there before.

    Raises:
        DataError: `E_INDEX_EMPTY` if there are no rows.
    """
    if not rows.total:
        raise DataError("E_INDEX_EMPTY", "Expected at least one item to export. Received: none")
    before = done = target.begin(rows)
    report(done, rows.total)
    items = rows.read(done)
    while part := list(islice(items, batch)):
        target.write(done, part)
        done += len(part)
        report(done, rows.total)
    target.finish(rows.total)
    return before
