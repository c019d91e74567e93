"""Batches of N pairs from N classes, with hard negative class mining: Sohn, NeurIPS 2016, section 3.2."""

import numpy as np

from anchorage.data.sampling._class_rows import CANDIDATES, ClassRows, check_count
from anchorage.data.sampling.centred import CentredSampler
from anchorage.errors import UsageError

MINING = ("none", "hard_class")


class NPairBatches(CentredSampler):
    """Samples two distinct items of each of N classes: `a1, p1, a2, p2, ...`; classes with one item are omitted.

    With `mining="none"` a round visits every class once. With `"hard_class"` a batch starts with one of `candidates`
    random classes, and repeatedly adds the class that is most similar to those chosen:

        argmax_c  max_{s chosen} m_s . m_c,    m the mean embedding of a class, not normalized, ties at random.

    The means are updated before the first step and after each epoch.

    Args:
        labels: `(M,)` integer class ids, in any order.
        pairs: N, at least 1.
        seed: non-negative integer.
        mining: `"none"` or `"hard_class"`.
        candidates: number of random classes to choose hard ones from; 0 for four times `pairs`; at most all classes.
        probes_per_class: items per class whose mean embedding is the center.

    Raises:
        UsageError: on an unknown `mining`, a count out of range, or fewer than `pairs` classes of two items.

    Example:
        >>> sampler = NPairBatches([5, 5, 8, 8, 9], pairs=2, seed=0)
        >>> sorted(sampler.batch(step=0).tolist())
        [0, 1, 2, 3]
    """

    def __init__(
        self, labels, pairs: int, seed: int, mining: str = "none", candidates: int = 0, probes_per_class: int = 2
    ):
        check_count("pairs", pairs)
        check_count("candidates", candidates or 4 * pairs, least=pairs)
        check_count("probes_per_class", probes_per_class)
        if mining not in MINING:
            raise UsageError("E_SAMPLER", f"`mining` must be one of {list(MINING)}. Received: mining={mining!r}")
        super().__init__(ClassRows(labels, seed, least=2), seed, mining != "none", probes_per_class)
        self._rows.check_enough(pairs, "different classes of at least two items")
        self._pairs, self._mining = pairs, mining
        self._candidates = min(candidates or 4 * pairs, len(self._rows))

    @property
    def batch_size(self) -> int:
        """Rows in every batch, 2 N."""
        return 2 * self._pairs

    @property
    def steps_per_round(self) -> int:
        """Steps in which every class is visited, without mining."""
        return self._rows.rounds(self._pairs)

    def batch(self, step: int) -> np.ndarray:
        """Return the int64 rows `(2 N,)` of this step, pair by pair."""
        number, chosen, visits = self._rows.visit(step, self._pairs)
        if not self.refreshes:
            return self._rows.take(number, chosen, 2 * visits, 2).ravel()
        random = np.random.default_rng((self._seed, CANDIDATES, step))
        candidates = random.choice(len(self._rows), self._candidates, replace=False)
        order = np.arange(self._pairs) if self.centres is None else hard_classes(self.centres[candidates], self._pairs)
        return self._rows.draw(random, number, candidates[order], 2).ravel()

    def _to_centres(self, grouped: np.ndarray) -> np.ndarray:
        return grouped.mean(axis=1)


def hard_classes(centres: np.ndarray, count: int) -> np.ndarray:
    """Choose classes greedily by their similarity to those chosen, starting with class 0; ties go to the first.

    Args:
        centres: `(C, D)` class centers.
        count: at most C.

    Returns:
        `(count,)` class numbers, in the order of the choice.
    """
    chosen = [0]
    scores = np.full(len(centres), -np.inf)
    for _ in range(count - 1):
        scores = np.maximum(scores, centres @ centres[chosen[-1]])
        scores[chosen] = -np.inf
        chosen.append(int(scores.argmax()))
    return np.array(chosen)
