"""Filters of a search: equality and `in` on id, label and attributes, answered from lists of rows by value."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from anchorage.errors import UsageError

_KEYS = ("id", "label", "attributes")
_MOST_VALUES = 10_000  # of one filter


@dataclass(frozen=True)
class Filter:
    """Conditions that a result must meet, all of them; None for no condition.

    Args:
        ids: allowed ids.
        labels: allowed labels.
        attributes: allowed values by attribute; an item without the attribute has the value "".
    """

    ids: frozenset[str] | None = None
    labels: frozenset[str] | None = None
    attributes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.ids, self.labels, frozenset(self.attributes.items())))

    @classmethod
    def parse(cls, content: Any) -> "Filter":
        """Read a filter as JSON has it: `{"id": "a", "label": ["b", "c"], "attributes": {"color": "red"}}`.

        Raises:
            UsageError: `E_FILTER` for another key, or a value that is neither a text nor a list of texts.
        """
        if not isinstance(content, Mapping) or set(content) - set(_KEYS):
            raise _refused(f"an object with {', '.join(map(repr, _KEYS))}, each optional", content)
        attributes = content.get("attributes", {})
        if not isinstance(attributes, Mapping) or not all(isinstance(name, str) for name in attributes):
            raise _refused("an object of names and values as `attributes`", attributes)
        values = {f"attributes.{name}": value for name, value in attributes.items()}
        values |= {name: content[name] for name in ("id", "label") if name in content}
        sets = {name: _texts(name, value) for name, value in values.items()}
        if sum(map(len, sets.values())) > _MOST_VALUES:
            raise _refused(f"at most {_MOST_VALUES} values", sum(map(len, sets.values())))
        named = {name: sets[f"attributes.{name}"] for name in attributes}
        return cls(sets.get("id"), sets.get("label"), named)


class Column:
    """The values of one text column of a table, with the rows of each value.

    Args:
        values: `(M,)` object array of str.
    """

    def __init__(self, values: np.ndarray):
        self.values = values

    @cached_property
    def _lists(self) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray]:
        """Number of each value, number of each row's value, rows sorted by it, and where each value's rows start."""
        numbers: dict[str, int] = {}
        codes = np.fromiter((numbers.setdefault(value, len(numbers)) for value in self.values), np.int32)
        order = np.argsort(codes, kind="stable").astype(np.int32 if len(codes) < 2**31 else np.int64)
        starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(numbers)))])
        return numbers, codes, order, starts

    def count(self, allowed: Collection[str]) -> int:
        """Return the number of rows with one of these values."""
        numbers, _, _, starts = self._lists
        return sum(int(starts[at + 1] - starts[at]) for at in self._known(numbers, allowed))

    def rows(self, allowed: Collection[str]) -> np.ndarray:
        """Return the rows with one of these values, ascending: `(m,)` integers."""
        numbers, _, order, starts = self._lists
        lists = [order[starts[at] : starts[at + 1]] for at in self._known(numbers, allowed)]
        if len(lists) == 1:
            return lists[0]
        return np.sort(np.concatenate(lists)) if lists else order[:0]

    def keeps(self, rows: np.ndarray, allowed: Collection[str]) -> np.ndarray:
        """Return which of these rows have one of these values: `(m,)` bool."""
        numbers, codes, _, _ = self._lists
        wanted = np.zeros(len(numbers) + 1, bool)
        wanted[self._known(numbers, allowed)] = True
        return wanted[codes[rows]]

    def counts(self, alive: np.ndarray) -> dict[str, int]:
        """Return the number of rows of each value, among those of a mask `(M,)`."""
        numbers, codes, _, _ = self._lists
        return dict(zip(numbers, np.bincount(codes[alive], minlength=len(numbers)).tolist(), strict=True))

    @staticmethod
    def _known(numbers: Mapping[str, int], allowed: Collection[str]) -> list[int]:
        return [numbers[value] for value in allowed if value in numbers]


class Keys:
    """A column of which every row has another value.

    Args:
        row_of: row of each value.
    """

    def __init__(self, row_of: Mapping[str, int]):
        self._row_of = row_of

    def count(self, allowed: Collection[str]) -> int:
        return len(self.rows(allowed))

    def rows(self, allowed: Collection[str]) -> np.ndarray:
        return np.sort(np.array([self._row_of[value] for value in allowed if value in self._row_of], np.int64))

    def keeps(self, rows: np.ndarray, allowed: Collection[str]) -> np.ndarray:
        return np.isin(rows, self.rows(allowed))


def matching_rows(conditions: Sequence[tuple[Column | Keys, Collection[str]]]) -> np.ndarray:
    """Return the rows of a table that meet all conditions, ascending.

    Args:
        conditions: columns with their allowed values, at least one.
    """
    ordered = sorted(conditions, key=lambda condition: condition[0].count(condition[1]))
    (column, allowed), *others = ordered
    rows = column.rows(allowed)
    for column, allowed in others:
        rows = rows[column.keeps(rows, allowed)]
    return rows


def _texts(name: str, value: Any) -> frozenset[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple | set | frozenset) or not all(isinstance(text, str) for text in values):
        raise _refused(f"a text or a list of texts as `{name}`", value)
    return frozenset(values)


def _refused(expected: str, received: Any) -> UsageError:
    return UsageError("E_FILTER", f"Expected as filter {expected}. Received: {received!r:.80}")
