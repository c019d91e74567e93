"""Samplers of P classes with K items each, and of shuffled rows."""

import numpy as np

from anchorage.data.sampling._class_rows import ClassRows, check_count
from anchorage.errors import UsageError


class ClassBatches:
    """Samples exactly `classes` distinct classes per batch, with `per_class` items each.

    A round visits every class once, in a new order each time. If the number of classes is not a
    multiple of `classes`, the last batch of the round is filled with the next items of the first
    classes of the round. The items of a class are shuffled anew in each round; a class with fewer
    than `per_class` items repeats them.

    Args:
        labels: `(M,)` integer class ids, in any order.
        classes: P, distinct classes per batch; at least 1.
        per_class: K, items per class; at least 1.
        seed: non-negative integer.

    Raises:
        UsageError: if there are fewer than `classes` classes, or a count is below 1.

    Example:
        >>> sampler = ClassBatches([0, 0, 1, 1, 2, 2], classes=3, per_class=2, seed=1)
        >>> sorted(sampler.batch(step=0).tolist())
        [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, labels, classes: int, per_class: int, seed: int):
        check_count("classes", classes)
        check_count("per_class", per_class)
        self._rows = ClassRows(labels, seed)
        self._rows.check_enough(classes)
        self._classes, self._per_class = classes, per_class

    @property
    def batch_size(self) -> int:
        """Rows in every batch, P * K."""
        return self._classes * self._per_class

    @property
    def steps_per_round(self) -> int:
        """Steps in which every class is visited."""
        return self._rows.rounds(self._classes)

    def batch(self, step: int) -> np.ndarray:
        """Return the int64 rows `(P * K,)` of this step, class by class."""
        number, chosen, visits = self._rows.visit(step, self._classes)
        return self._rows.take(number, chosen, visits * self._per_class, self._per_class).ravel()


class ShuffledBatches:
    """Samples shuffled rows, every row once per round, regardless of class.

    The last batch of a round is filled with the first rows of the same round.

    Args:
        labels: `(M,)` labels; only their number is used.
        batch_size: rows per batch; from 1 to M.
        seed: non-negative integer.

    Raises:
        UsageError: if `batch_size` is less than 1 or greater than the number of rows.
    """

    def __init__(self, labels, batch_size: int, seed: int):
        check_count("batch_size", batch_size)
        if len(labels) < batch_size:
            raise UsageError(
                "E_TOO_FEW_RECORDS",
                f"Expected at least {batch_size} records for a batch. Received: {len(labels)}. Lower `batch_size`.",
            )
        self.batch_size = batch_size
        self._rows, self._seed = len(labels), seed
        self._round: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_round(self) -> int:
        """Steps in which every row is visited."""
        return -(-self._rows // self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Return the int64 rows `(batch_size,)` of this step."""
        number, position = divmod(step, self.steps_per_round)
        cached, order = self._round
        if cached != number:
            order = np.random.default_rng((self._seed, number)).permutation(self._rows)
            self._round = (number, order)
        return order[(position * self.batch_size + np.arange(self.batch_size)) % self._rows]
