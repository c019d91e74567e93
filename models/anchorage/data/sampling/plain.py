"""The two plain samplers: P classes of K items, and shuffled epochs."""

import numpy as np

from anchorage.data.sampling._class_rows import ClassRows, check_count
from anchorage.errors import UsageError


class ClassBatches:
    """Batches of exactly `classes` distinct classes with `per_class` items each.

    A round visits every class once, in a new order each time; if the number of
    classes is no multiple of `classes`, the last batch of the round is filled with the
    first classes of the same round, whose next items it takes. Items of a class are shuffled
    anew each round. A class with fewer than `per_class` items repeats them in turn.

    Args:
        labels: `(M,)` integer class ids, in any order.
        classes: P, distinct classes in a batch; at least 1.
        per_class: K, items of each class; at least 1.
        seed: any integer from 0; each seed is another sequence of batches.

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
        """Batches in which every class comes up."""
        return self._rows.rounds(self._classes)

    def batch(self, step: int) -> np.ndarray:
        """The `(P * K,)` int64 rows of this step, class by class."""
        number, chosen, visits = self._rows.visit(step, self._classes)
        return self._rows.take(number, chosen, visits * self._per_class, self._per_class).ravel()


class ShuffledBatches:
    """Plain shuffled epochs: every row once a round, classes as they fall.

    The last batch of a round is filled with the first rows of the same round.

    Args:
        labels: `(M,)` labels; only their number counts.
        batch_size: rows in a batch; at least 1 and at most M.
        seed: any integer from 0; each seed is another sequence of batches.

    Raises:
        UsageError: if `batch_size` is below 1 or above the number of rows.
    """

    def __init__(self, labels, batch_size: int, seed: int):
        check_count("batch_size", batch_size)
        if len(labels) < batch_size:
            raise UsageError(
                "E_TOO_FEW_RECORDS",
                f"A batch wants {batch_size} records, but the data has {len(labels)}. Lower `batch_size`.",
            )
        self.batch_size = batch_size
        self._rows, self._seed = len(labels), seed
        self._round: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_round(self) -> int:
        """Batches in which every row comes up."""
        return -(-self._rows // self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """The `(batch_size,)` int64 rows of this step."""
        number, position = divmod(step, self.steps_per_round)
        cached, order = self._round
        if cached != number:
            order = np.random.default_rng((self._seed, number)).permutation(self._rows)
            self._round = (number, order)
        return order[(position * self.batch_size + np.arange(self.batch_size)) % self._rows]
