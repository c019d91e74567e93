"""Batches with class representatives that are fixed for some steps: Can, Gürbüz & Alatan, ICIP 2021."""

import numpy as np

from anchorage.data.sampling._class_rows import CANDIDATES, ClassRows, check_count
from anchorage.data.sampling.centred import CentredSampler
from anchorage.errors import UsageError

MINING = ("none", "hard_class")


class RepresentativeBatches(CentredSampler):
    """Samples the representatives of P classes, followed by K - 1 other items of each class.

    Rows 0 to P - 1 are the representatives, followed by one more item of each class in the same order, another one of
    each, and so on. A class keeps its representative for `lifetime` steps; then all change, and every item of a class
    is used before one is repeated. A representative can also be among the other items.

    With `mining="none"` a round visits every class once. With `"hard_class"` a round visits half as many classes per
    step, and adds to each the class with the nearest representative; representatives are embedded before the first
    step and after each epoch. If P is odd, one class gets no neighbor.

    Args:
        labels: `(M,)` integer class ids, in any order.
        classes: P, distinct classes per batch; at least 1, and 2 with mining.
        per_class: K, items per class including the representative; at least 2. A class with fewer items repeats them.
        seed: non-negative integer.
        lifetime: steps after which all representatives change, at least 1; preferably a divisor of the steps per epoch.
        mining: `"none"` or `"hard_class"`.

    Raises:
        UsageError: on an unknown `mining`, a count that is too low, or fewer than `classes` classes.

    Example:
        >>> sampler = RepresentativeBatches([0, 0, 0, 1, 1, 1], classes=2, per_class=3, seed=0, lifetime=4)
        >>> sorted(sampler.batch(step=0)[:2].tolist()) == sorted(sampler.batch(step=3)[:2].tolist())
        True
    """

    def __init__(self, labels, classes: int, per_class: int, seed: int, lifetime: int = 32, mining: str = "none"):
        check_count("classes", classes, least=1 if mining == "none" else 2)
        check_count("per_class", per_class, least=2)
        check_count("lifetime", lifetime)
        if mining not in MINING:
            raise UsageError("E_SAMPLER", f"`mining` must be one of {list(MINING)}. Received: mining={mining!r}")
        super().__init__(ClassRows(labels, seed), seed, mining != "none", probes_per_class=1, neighbors=classes - 1)
        self._rows.check_enough(classes)
        self._classes, self._per_class, self._lifetime = classes, per_class, lifetime
        self._seeds = classes - classes // 2 if self.refreshes else classes

    @property
    def batch_size(self) -> int:
        """Rows in every batch, P * K."""
        return self._classes * self._per_class

    @property
    def steps_per_round(self) -> int:
        """Steps in which every class is visited; with mining, not as a neighbor of another class."""
        return self._rows.rounds(self._seeds)

    @property
    def facts(self) -> dict[str, int]:
        """Values for constructor arguments of training methods, by name."""
        return {"num_representatives": self._classes, "lifetime": self._lifetime}

    def batch(self, step: int) -> np.ndarray:
        """Return the int64 rows `(P * K,)` of this step."""
        number, chosen, visits = self._rows.visit(step, self._seeds)
        if self.refreshes:
            random = np.random.default_rng((self._seed, CANDIDATES, step))
            chosen = self._with_neighbors(chosen, self._classes, random)
            others = self._rows.draw(random, number, chosen, self._per_class - 1)
        else:
            others = self._rows.take(number, chosen, visits * (self._per_class - 1), self._per_class - 1)
        first = self._rows.cycle(step // self._lifetime, chosen)
        return np.concatenate([first, others.T.ravel()])

    def probes(self, step: int) -> np.ndarray:
        """Return the representatives `(C,)` of all classes at this step."""
        return self._rows.cycle(step // self._lifetime, np.arange(len(self._rows)))
