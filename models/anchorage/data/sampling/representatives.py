"""Batches around class representatives held for a while: Can, Gürbüz & Alatan, ICIP 2021."""

import numpy as np

from anchorage.data.sampling._class_rows import CANDIDATES, ClassRows, check_count
from anchorage.data.sampling.centred import CentredSampler
from anchorage.errors import UsageError

MINING = ("none", "hard_class")


class RepresentativeBatches(CentredSampler):
    """The representatives of P classes first, then K - 1 other items of each, the classes in turn.

    Rows 0 to P - 1 are the representatives; then come one more item of each class in the same order, another one of
    each, and so on. For `lifetime` steps a class has the same representative, then all are drawn anew, and
    no item is drawn twice before its class is used up. A representative may be among the other items as well.

    With `mining="none"` every class comes up once in a round. With `"hard_class"` half of the classes do, and each
    brings the class along whose representative was nearest when they were last embedded, before the first step and
    after each epoch; an odd class out brings none.

    Args:
        labels: `(M,)` integer class ids, in any order.
        classes: P, distinct classes in a batch; at least 1, and 2 with mining.
        per_class: K, items of each class with its representative; at least 2. A class with fewer repeats them.
        seed: any integer from 0; each seed is another sequence of batches.
        lifetime: steps until all representatives are drawn anew, at least 1; best a divisor of the steps in an epoch.
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
        """Batches in which every class comes up, with mining without being brought along."""
        return self._rows.rounds(self._seeds)

    @property
    def facts(self) -> dict[str, int]:
        """What a training method may ask for by these names."""
        return {"num_representatives": self._classes, "lifetime": self._lifetime}

    def batch(self, step: int) -> np.ndarray:
        """The `(P * K,)` int64 rows of this step."""
        number, chosen, visits = self._rows.visit(step, self._seeds)
        if self.refreshes:
            random = np.random.default_rng((self._seed, CANDIDATES, step))
            chosen = self._with_neighbors(chosen, self._classes, random)
            others = self._rows.drawn(random, number, chosen, self._per_class - 1)
        else:
            others = self._rows.take(number, chosen, visits * (self._per_class - 1), self._per_class - 1)
        first = self._rows.in_turn(step // self._lifetime, chosen)
        return np.concatenate([first, others.T.ravel()])

    def probes(self, step: int) -> np.ndarray:
        """The `(C,)` representatives that this step has."""
        return self._rows.in_turn(step // self._lifetime, np.arange(len(self._rows)))
