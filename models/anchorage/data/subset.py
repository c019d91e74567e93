"""Subsets of the classes of a record store, and folds of classes."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from anchorage.errors import DataError, UsageError

if TYPE_CHECKING:
    from anchorage.data.store import RecordStore


class ClassSubset:
    """A view of some classes of a store.

    Args:
        store: the store.
        class_names: names of the classes to keep.

    Attributes:
        ids: `(M,)` object array of str.
        labels: `(M,)` int32 class numbers, dense from 0 in the order of `class_names`; ascending.
        class_names: the kept names, sorted.
        roles: `(M,)` object array of "query", "gallery" or "both".
        spec: shape and type of the records.

    Raises:
        DataError: `E_CLASS_UNKNOWN` if a name is not in the store.
    """

    def __init__(self, store: "RecordStore", class_names: Iterable[str]):
        names = sorted(set(class_names))
        unknown = sorted(set(names) - set(store.class_names))
        if unknown:
            raise DataError("E_CLASS_UNKNOWN", f"Expected classes of {store.folder}. Received: {unknown[:5]}")
        numbers = np.full(len(store.class_names), -1, np.int32)
        numbers[np.searchsorted(np.array(store.class_names, object), names)] = np.arange(len(names))
        labels = numbers[store.labels]
        self._store, self._rows = store, np.flatnonzero(labels >= 0)
        self.labels = labels[self._rows]
        self.ids, self.roles = store.ids[self._rows], store.roles[self._rows]
        self.class_names = names
        self.spec = store.spec

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read the images of `rows` (n,), in this order, as `(n, S, S, 3)` uint8."""
        return self._store.read(self._rows[np.asarray(rows, np.int64)])

    @property
    def copies(self) -> int:
        """Number of augmented copies of a row."""
        return getattr(self._store, "copies", 0)

    def read_copies(self, rows: Sequence[int] | np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Read `rows` (n,), each of the copy with this number; only of a store with copies."""
        return self._store.read_copies(self._rows[np.asarray(rows, np.int64)], numbers)  # type: ignore[attr-defined]


def assign_folds(class_names: Iterable[str], folds: int, seed: int = 0) -> list[list[str]]:
    """Assign classes to folds whose sizes differ by at most one; the same on every machine.

    Args:
        class_names: names of all classes.
        folds: number of folds, at least 2.
        seed: seed of the shuffle.

    Raises:
        UsageError: `E_FOLDS` if a fold would have fewer than two classes, since retrieval needs negatives.

    Example:
        >>> [len(fold) for fold in assign_folds("abcdefg", folds=3)]
        [3, 2, 2]
    """
    names = sorted(set(class_names))
    if folds < 2 or len(names) < 2 * folds:
        raise UsageError(
            "E_FOLDS", f"Expected at least two folds of two classes each. Received: {folds} of {len(names)} classes"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    return [sorted(names[number] for number in order[fold::folds]) for fold in range(folds)]
