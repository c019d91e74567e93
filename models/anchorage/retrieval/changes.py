"""The changed rows of a live index, as states that searches can go on using while later changes are applied."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anchorage.data.tables import ATTRIBUTE
from anchorage.items import Item
from anchorage.retrieval.filters import Filter

_CAPACITY = 256  # rows at first
_ID, _LABEL = "id", "label"


@dataclass(frozen=True)
class Added:
    """Rows added since a release, oldest first.

    Later states share the lists and see a longer prefix of them; a row that was written is never overwritten.

    Args:
        vectors: `(capacity, D)` float32.
        ids, labels, attributes: of each row.
        rows_of: rows by "id", "label" or the name of an attribute with a prefix, and value, ascending; for an
            attribute also by None, all rows that have it.
    """

    vectors: np.ndarray
    ids: list[str]
    labels: list[str]
    attributes: list[Mapping[str, str]]
    rows_of: dict[tuple[str, str | None], list[int]]

    @classmethod
    def empty(cls, dimension: int, capacity: int = _CAPACITY) -> "Added":
        return cls(np.empty((capacity, dimension), np.float32), [], [], [], {})

    def append(self, id: str, label: str, attributes: Mapping[str, str]) -> None:
        """Add a row, whose vector is there already."""
        row = len(self.ids)
        self.ids.append(id)
        self.labels.append(label)
        self.attributes.append(attributes)
        keys: list[tuple[str, str | None]] = [(_ID, id), (_LABEL, label)]
        for name, value in attributes.items():
            if value:
                keys += [(f"{ATTRIBUTE}{name}", value), (f"{ATTRIBUTE}{name}", None)]
        for key in keys:
            self.rows_of.setdefault(key, []).append(row)

    def mask(self, column: str, allowed: Collection[str], count: int) -> np.ndarray:
        """Return which of the first rows have one of these values: `(count,)` bool."""
        mask = np.zeros(count, bool)
        if column not in (_ID, _LABEL) and "" in allowed:  # the value of rows without the attribute
            mask[:] = True
            mask[self._first(column, None, count)] = False
        for value in allowed:
            mask[self._first(column, value, count)] = True
        return mask

    def _first(self, column: str, value: str | None, count: int) -> np.ndarray:
        rows = np.array(self.rows_of.get((column, value), ()), np.int64)  # one that is written to has more rows
        return rows[: np.searchsorted(rows, count)]


@dataclass(frozen=True)
class State:
    """Immutable snapshot that a search works on.

    Args:
        change: number of the last change.
        alive: `(M,)` whether a row of the release is still valid.
        dead: rows of the release that are not.
        added: rows added since, of which the first `len(alive_added)` belong to this state.
        alive_added: whether an added row is still valid.
    """

    change: int
    alive: np.ndarray
    dead: int
    added: Added
    alive_added: np.ndarray

    @property
    def vectors(self) -> np.ndarray:
        """`(n, D)` vectors of the added rows, valid or not."""
        return self.added.vectors[: len(self.alive_added)]

    @property
    def rows(self) -> int:
        """Number of valid rows."""
        return len(self.alive) - self.dead + self.rows_added

    @property
    def rows_added(self) -> int:
        """Number of added rows that are valid."""
        return int(np.count_nonzero(self.alive_added))

    def matching_added(self, where: Filter | None) -> np.ndarray:
        """Return the added rows that are valid and meet the conditions, ascending."""
        mask = self.alive_added
        if where is not None:
            named: list[tuple[str, Collection[str] | None]] = [(_ID, where.ids), (_LABEL, where.labels)]
            named += [(f"{ATTRIBUTE}{name}", values) for name, values in where.attributes.items()]
            for column, values in named:
                if values is not None:
                    mask = mask & self.added.mask(column, values, len(mask))
        return np.flatnonzero(mask)

    def item(self, row: int) -> Item:
        """Return an added row as an item."""
        added = self.added
        return Item(added.ids[row], added.labels[row], dict(added.attributes[row]), np.array(added.vectors[row]))

    def with_changes(
        self, items: Sequence[Item], row_of: Mapping[str, int], added_row: dict[str, int]
    ) -> "tuple[State, dict[str, int]]":
        """Return the state after a batch of changes.

        Args:
            items: valid items, each id once.
            row_of: rows of the release by id.
            added_row: rows added by id.

        Returns:
            The state, and the rows added by id that belong to it: `added_row`, updated, or a new dict if rows that are
            not valid any more were dropped.
        """
        puts = [item for item in items if not item.deleted]
        state, added_row = self._with_room(len(puts), added_row)
        count, added = len(state.alive_added), state.added
        alive, alive_added = state.alive.copy(), np.concatenate([state.alive_added, np.ones(len(puts), bool)])
        for item in items:
            if (row := row_of.get(item.id)) is not None:
                alive[row] = False
            if (row := added_row.pop(item.id, None)) is not None:
                alive_added[row] = False
        for place, item in enumerate(puts, count):
            added.vectors[place] = item.vector
            added_row[item.id] = place
        for item in puts:
            added.append(item.id, item.label, item.attributes)
        change = max(state.change, *(item.change for item in items))
        return State(change, alive, len(alive) - int(np.count_nonzero(alive)), added, alive_added), added_row

    def _with_room(self, more: int, added_row: dict[str, int]) -> "tuple[State, dict[str, int]]":
        """Return an equal state with space for more rows; where it needs a new array, invalid rows are dropped."""
        if len(self.alive_added) + more <= len(self.added.vectors):
            return self, added_row
        valid = np.flatnonzero(self.alive_added).tolist()
        old, added = self.added, Added.empty(self.added.vectors.shape[1], 2 * (len(valid) + more))
        added.vectors[: len(valid)] = old.vectors[valid]
        for row in valid:
            added.append(old.ids[row], old.labels[row], old.attributes[row])
        rows = {id_: row for row, id_ in enumerate(added.ids)}
        return State(self.change, self.alive, self.dead, added, np.ones(len(valid), bool)), rows
