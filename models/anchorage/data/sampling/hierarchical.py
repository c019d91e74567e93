"""Batches of groups of neighboring classes: Ge, Huang, Dong & Scott, ECCV 2018, section 4.2, "anchor neighbor"."""

import numpy as np

from anchorage.data.sampling._class_rows import CANDIDATES, ClassRows, check_count
from anchorage.data.sampling.centred import CentredSampler


class HierarchicalBatches(CentredSampler):
    """Samples seed classes, each with its nearest classes, and items of each, for many hard negatives.

    The distance of two classes is that of the paper, the mean squared distance of their items on the unit sphere,

        d(p, q) = mean |r_i - r_j|^2 = 2 - 2 m_p . m_q,    m the mean of a class's unit rows,

    over the embedded items. Every class is a seed once per round. A class near two seeds is used for the first, and
    the second gets its next nearest class, so the classes of a batch are distinct.

    Args:
        labels: `(M,)` integer class ids, in any order.
        groups: seed classes per batch (l' in the paper); at least 1.
        classes_per_group: a seed and its neighbors (m in the paper); at least 2.
        per_class: items per class (t in the paper); at least 1. A class with fewer items repeats them.
        seed: non-negative integer.
        probes_per_class: items per class whose mean embedding is the center.

    Raises:
        UsageError: if there are fewer than `groups * classes_per_group` classes, or a count is too low.

    Example:
        >>> sampler = HierarchicalBatches([0, 0, 1, 1, 2, 2], groups=1, classes_per_group=2, per_class=2, seed=0)
        >>> sampler.set_state({"centres": np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])})
        >>> sorted(sorted(set((sampler.batch(step) // 2).tolist())) for step in range(3))  # class c: rows 2c, 2c + 1
        [[0, 2], [0, 2], [1, 2]]
    """

    def __init__(
        self,
        labels,
        groups: int,
        classes_per_group: int,
        per_class: int,
        seed: int,
        probes_per_class: int = 2,
    ):
        check_count("groups", groups)
        check_count("classes_per_group", classes_per_group, least=2)
        check_count("per_class", per_class)
        check_count("probes_per_class", probes_per_class)
        self._groups, self._wanted, self._per_class = groups, groups * classes_per_group, per_class
        rows = ClassRows(labels, seed)
        rows.check_enough(self._wanted)
        super().__init__(rows, seed, probes_per_class=probes_per_class, neighbors=self._wanted - 1)

    @property
    def batch_size(self) -> int:
        """Rows in every batch."""
        return self._wanted * self._per_class

    @property
    def steps_per_round(self) -> int:
        """Steps in which every class is a seed."""
        return self._rows.rounds(self._groups)

    def batch(self, step: int) -> np.ndarray:
        """Return the int64 rows of this step, class by class, each seed before its neighbors."""
        random = np.random.default_rng((self._seed, CANDIDATES, step))
        number, seeds, _ = self._rows.visit(step, self._groups)
        chosen = self._with_neighbors(seeds, self._wanted, random)
        return self._rows.draw(random, number, chosen, self._per_class).ravel()
