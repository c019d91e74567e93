"""The rows of each class, in an order of their own in every round; what the samplers by class are made of."""

import numpy as np

from anchorage.errors import UsageError


class ClassRows:
    """Rows grouped by class, classes numbered from 0 in the order of their labels.

    Args:
        labels: `(M,)` integer class ids, in any order.
        seed: any integer from 0.
        least: classes with fewer rows are left out.

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
        """Raise unless there are at least so many classes.

        Raises:
            UsageError: E_TOO_FEW_CLASSES.
        """
        if len(self) < classes:
            raise UsageError(
                "E_TOO_FEW_CLASSES",
                f"A batch wants {classes} {what}, but the data has {len(self)}. "
                f"Lower the number of classes to {len(self)} or less, or bring more classes.",
            )

    def rounds(self, classes: int) -> int:
        """Steps in which every class comes up, so many at a step."""
        return -(-len(self) // classes)

    def visit(self, step: int, classes: int) -> tuple[int, np.ndarray, np.ndarray]:
        """The classes whose turn it is: every one once in a round, in a new order each round.

        Returns:
            The number of the round, `(classes,)` class numbers, and for each how often it came up in this round
            before: 1 where the last step of the round is filled with its first classes.
        """
        number, position = divmod(step, self.rounds(classes))
        places = position * classes + np.arange(classes)
        return number, self._shuffled(number)[0][places % len(self)], places // len(self)

    def take(self, number: int, chosen: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
        """Rows `(len(chosen), count)`: of each class those from place `first` on in its order of round `number`.

        A class with fewer rows starts again from its first.
        """
        row_order = self._shuffled(number)[1]
        items = first[:, None] + np.arange(count)
        return row_order[self._starts[chosen, None] + items % self.counts[chosen, None]]

    def drawn(self, random: np.random.Generator, number: int, chosen: np.ndarray, count: int) -> np.ndarray:
        """Rows `(len(chosen), count)` from a random place on; different ones where a class has so many."""
        return self.take(number, chosen, random.integers(self.counts[chosen]), count)

    def in_turn(self, number: int, chosen: np.ndarray) -> np.ndarray:
        """One row of each class `(len(chosen),)`: as `number` grows all rows of a class, then all in another order."""
        cycles, places = np.divmod(number, self.counts[chosen])
        rows = []
        for label, cycle, place in zip(chosen.tolist(), cycles.tolist(), places.tolist(), strict=True):
            order = np.random.default_rng((self._seed, _IN_TURN, label, cycle)).permutation(self.counts[label])
            rows.append(self._starts[label] + order[place])
        return self._grouped[np.array(rows, np.int64)]

    def _shuffled(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the classes, and all rows grouped by class, as they are in this round."""
        cached, class_order, row_order = self._round  # one read: another thread may put a new tuple there
        if cached != number:
            random = np.random.default_rng((self._seed, number))
            class_order = random.permutation(len(self))
            shuffled = random.permutation(len(self._rows))
            row_order = self._rows[shuffled[np.argsort(self._numbers[shuffled], kind="stable")]]
            self._round = (number, class_order, row_order)
        return class_order, row_order


# What a stream of random numbers is for, so that no two streams of one seed and step are the same.
CANDIDATES, PROBES, _IN_TURN = 1, 2, 3


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise unless `value` is at least `least`.

    Raises:
        UsageError: E_SAMPLER.
    """
    if value < least:
        raise UsageError("E_SAMPLER", f"`{name}` must be at least {least}. Received: {name}={value}")
