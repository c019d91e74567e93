"""Stores with other labels: selected rows, hidden labels, and labels from image ids."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anchorage.errors import DataError, UsageError

if TYPE_CHECKING:
    from anchorage.data.batches import Store


class LabelledRows:
    """A view of selected rows of a store, with other labels.

    Args:
        store: the store.
        rows: `(M,)` distinct rows of the store.
        labels: `(M,)` class numbers, less than the number of `class_names`; classes can be empty.
        class_names: names of the classes.

    Attributes:
        rows: rows of the store.
        ids: `(M,)` object array of str.
        labels: `(M,)` int32.
        class_names: as given.
        roles: `(M,)` object array of "query", "gallery" or "both".
        spec: shape and type of the records.
    """

    def __init__(self, store: "Store", rows: np.ndarray, labels: np.ndarray, class_names: Sequence[str]):
        self._store, self.rows = store, np.asarray(rows, np.int64)
        self.labels = np.asarray(labels, np.int32)
        self.ids, self.roles = store.ids[self.rows], store.roles[self.rows]
        self.class_names = list(class_names)
        self.spec = store.spec

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read the records of `rows` (n,), in this order."""
        return self._store.read(self.rows[np.asarray(rows, np.int64)])

    @property
    def copies(self) -> int:
        """Number of augmented copies of a row."""
        return getattr(self._store, "copies", 0)

    def read_copies(self, rows: Sequence[int] | np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Read `rows` (n,), each of the copy with this number; only of a store with copies."""
        return self._store.read_copies(self.rows[np.asarray(rows, np.int64)], numbers)  # type: ignore[attr-defined]


def hide_labels(
    store, share: float = 1.0, unlabelled_class: str = "", seed: int = 0
) -> tuple[LabelledRows, np.ndarray]:
    """Split a store into labelled and unlabelled images.

    Args:
        store: store with `labels` and `class_names`.
        share: share of the images of each class that keep their label, in (0, 1]; at least two keep it.
        unlabelled_class: class whose images count as unlabelled; "" for none.
        seed: seed of the choice.

    Returns:
        The labelled images, and the rows `(U,)` of the unlabelled ones.

    Raises:
        UsageError: E_LABEL_SHARE, or E_CLASS_UNKNOWN if there is no such class.
    """
    if not 0 < share <= 1:
        raise UsageError("E_LABEL_SHARE", f"`labelled_share` must lie in (0, 1]. Received: labelled_share={share}")
    if unlabelled_class and unlabelled_class not in store.class_names:
        raise UsageError(
            "E_CLASS_UNKNOWN", f"Expected `unlabelled_class` among the training classes. Received: {unlabelled_class!r}"
        )
    random = np.random.default_rng(seed)
    names = [name for name in store.class_names if name != unlabelled_class]
    labelled: list[np.ndarray] = []
    for name in names:
        of_class = np.flatnonzero(store.labels == store.class_names.index(name))
        labelled.append(np.sort(random.permutation(of_class)[: max(2, round(share * len(of_class)))]))
    rows = np.concatenate([*labelled, np.empty(0, np.int64)]).astype(np.int64)
    labels = np.repeat(np.arange(len(names)), [len(of_class) for of_class in labelled])
    return LabelledRows(store, rows, labels, names), np.setdiff1d(np.arange(len(store)), rows)


def labels_in_names(store, pattern: str) -> LabelledRows:
    """Label the images of a store by a part of their ids, such as a folder, seller or series.

    Args:
        store: store with `ids`.
        pattern: regular expression with one group, which is the label; images whose id does not match are omitted.

    Raises:
        UsageError: E_WEAK_LABELS if the pattern is invalid.
        DataError: E_WEAK_LABELS if it gives fewer than two classes.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError("E_WEAK_LABELS", f"`pattern` is not a valid regular expression: {error}") from None
    if expression.groups != 1:
        raise UsageError("E_WEAK_LABELS", f"`pattern` must have one group, in (). Received: {pattern!r}")
    matches = [expression.search(name) for name in store.ids]
    rows = np.array([row for row, match in enumerate(matches) if match], np.int64)
    names, labels = np.unique([match[1] for match in matches if match], return_inverse=True)
    if len(names) < 2:
        raise DataError(
            "E_WEAK_LABELS",
            f"Expected at least two classes. Received: {names.tolist()} by {pattern!r} in {len(store)} ids such as "
            f"{store.ids[0]!r}",
        )
    return LabelledRows(store, rows, labels, names.tolist())
