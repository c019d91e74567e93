"""Rows grouped by class, shuffled anew in every round, for the samplers by class."""

import numpy as np

from anchorage.errors import UsageError


class ClassRows:
    """Rows grouped by class; classes are numbered from 0 in the order of their labels.

    Args:
        labels: `(M,)` integer class ids, in any order.
        seed: non-negative integer.
        least: classes with fewer rows are omitted.

    Attributes:
        counts: `(C,)` number of rows of each class.
    """

    def __init__(self, labels, seed: int, least: int = 1):
        _, numbers, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        kept = counts >= least
        self._rows = np.flatnonzero(kept[numbers])
        self._numbers = (np.cumsum(kept) - 1)[numbers[self._rows]]
        self.counts = counts[kept]
        self._starts = np.cumsum(self.counts) - self.counts
        self._grouped = self._rows[np.argsort(self._numbers, kind="stable")]
        self._seed = seed
        self._round: tuple[int, np.ndarray, np.ndarray] = (-1, self._starts, self._starts)

    def __len__(self) -> int:
        return len(self.counts)

    def check_enough(self, classes: int, what: str = "different classes") -> None:
        """Raise unless there are at least this many classes.

        Raises:
            UsageError: E_TOO_FEW_CLASSES.
        """
        if len(self) < classes:
            raise UsageError(
                "E_TOO_FEW_CLASSES",
                f"Expected at least {classes} {what} for a batch. Received: {len(self)}. "
                f"Lower the number of classes to {len(self)} or less, or add more classes.",
            )

    def rounds(self, classes: int) -> int:
        """Return the number of steps that visit every class, at `classes` per step."""
        return -(-len(self) // classes)

    def visit(self, step: int, classes: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the classes of a step; a round visits every class once, in a new order each time.

        Returns:
            The number of the round, the class numbers `(classes,)`, and the number of earlier visits of each in this
            round: 1 for the first classes of the round that fill up its last step.
        """
        number, position = divmod(step, self.rounds(classes))
        places = position * classes + np.arange(classes)
        return number, self._shuffled(number)[0][places % len(self)], places // len(self)

    def take(self, number: int, chosen: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
        """Return rows `(len(chosen), count)`: those of each class from position `first` on, in the order of the round.

        A class with fewer rows repeats from its first row.
        """
        row_order = self._shuffled(number)[1]
        items = first[:, None] + np.arange(count)
        return row_order[self._starts[chosen, None] + items % self.counts[chosen, None]]

    def draw(self, random: np.random.Generator, number: int, chosen: np.ndarray, count: int) -> np.ndarray:
        """Return rows `(len(chosen), count)` from a random position on; distinct if a class has enough rows."""
        return self.take(number, chosen, random.integers(self.counts[chosen]), count)

    def cycle(self, number: int, chosen: np.ndarray) -> np.ndarray:
        """Return one row per class `(len(chosen),)`, which cycles through all rows of the class as `number` grows."""
        cycles, places = np.divmod(number, self.counts[chosen])
        rows = []
        for label, cycle, place in zip(chosen.tolist(), cycles.tolist(), places.tolist(), strict=True):
            order = np.random.default_rng((self._seed, _CYCLES, label, cycle)).permutation(self.counts[label])
            rows.append(self._starts[label] + order[place])
        return self._grouped[np.array(rows, np.int64)]

    def _shuffled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the classes, and all rows grouped by class, in a round."""
        cached, class_order, row_order = self._round  # a single read, since another thread can replace the tuple
        if cached != number:
            random = np.random.default_rng((self._seed, number))
            class_order = random.permutation(len(self))
            shuffled = random.permutation(len(self._rows))
            row_order = self._rows[shuffled[np.argsort(self._numbers[shuffled], kind="stable")]]
            self._round = (number, class_order, row_order)
        return class_order, row_order


# Purpose of a stream of random numbers, so that streams of the same seed and step differ.
CANDIDATES, PROBES, _CYCLES = 1, 2, 3


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise unless `value` is at least `least`.

    Raises:
        UsageError: E_SAMPLER.
    """
    if value < least:
        raise UsageError("E_SAMPLER", f"`{name}` must be at least {least}. Received: {name}={value}")
