"""Some rows of a store under labels of their own, how labels are hidden, and read from names."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anchorage.errors import DataError, UsageError

if TYPE_CHECKING:
    from anchorage.data.batches import Store


class LabelledRows:
    """A store that holds the named rows of another one under other labels; nothing is copied.

    Args:
        store: the whole.
        rows: `(M,)` places in it, none twice.
        labels: `(M,)` class numbers below the number of `class_names`; a class may be without rows.
        class_names: of the numbers.

    Attributes:
        rows: the places in the whole.
        ids: `(M,)` object array of str.
        labels: `(M,)` int32.
        class_names: as given.
        roles: `(M,)` object array of "query", "gallery" or "both".
        spec: what one record is.
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
        """The records of `rows` (n,), in that order."""
        return self._store.read(self.rows[np.asarray(rows, np.int64)])


def hide_labels(
    store, share: float = 1.0, unlabelled_class: str = "", seed: int = 0
) -> tuple[LabelledRows, np.ndarray]:
    """Part a store into what has labels and what has none.

    Args:
        store: with `labels` and `class_names`.
        share: of each class's images that keep their label, in (0, 1]; two at least keep it.
        unlabelled_class: class whose images have no label; "" for none.
        seed: of the choice.

    Returns:
        The images with labels, and the `(U,)` rows of the others.

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
    kept: list[np.ndarray] = []
    for name in names:
        own = np.flatnonzero(store.labels == store.class_names.index(name))
        kept.append(np.sort(random.permutation(own)[: max(2, round(share * len(own)))]))
    rows = np.concatenate([*kept, np.empty(0, np.int64)]).astype(np.int64)
    labels = np.repeat(np.arange(len(names)), [len(own) for own in kept])
    return LabelledRows(store, rows, labels, names), np.setdiff1d(np.arange(len(store)), rows)


def labels_in_names(store, pattern: str) -> LabelledRows:
    """The images of a store under labels that their ids give away: a folder, a seller, a series.

    Args:
        store: whose `ids` are searched.
        pattern: regular expression with one group, which is the label; images whose id it does not fit are left out.

    Raises:
        UsageError: E_WEAK_LABELS if the pattern is not well written.
        DataError: E_WEAK_LABELS if it makes fewer than two classes.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError("E_WEAK_LABELS", f"`pattern` is no regular expression: {error}") from None
    if expression.groups != 1:
        raise UsageError("E_WEAK_LABELS", f"`pattern` must have one group, in (). Received: {pattern!r}")
    matches = [expression.search(name) for name in store.ids]
    rows = np.array([row for row, match in enumerate(matches) if match], np.int64)
    names, labels = np.unique([match[1] for match in matches if match], return_inverse=True)
    if len(names) < 2:
        raise DataError(
            "E_WEAK_LABELS",
            f"Expected two classes at least. Received: {names.tolist()} by {pattern!r} in {len(store)} ids such as "
            f"{store.ids[0]!r}",
        )
    return LabelledRows(store, rows, labels, names.tolist())
