"""Groups of classes that lie near each other: Ge, Huang, Dong & Scott, ECCV 2018, section 4.2, "anchor neighbour"."""

import numpy as np

from anchorage.data.sampling._class_rows import CANDIDATES, ClassRows, check_count
from anchorage.data.sampling.centred import CentredSampler


class HierarchicalBatches(CentredSampler):
    """Seed classes, each with the classes nearest to it, and some items of each: batches full of hard negatives.

    The distance of two classes is the paper's, the mean squared distance of their items on the unit sphere,

        d(p, q) = mean |r_i - r_j|^2 = 2 - 2 m_p . m_q,    m the mean of a class's unit rows,

    over the items embedded. Every class is a seed once in a round; a class near two seeds goes to the first, and
    the second gets its next nearest, so that all classes of a batch are different.

    Args:
        labels: `(M,)` integer class ids, in any order.
        groups: seed classes in a batch (l' in the paper); at least 1.
        classes_per_group: a seed and its neighbours (m in the paper); at least 2.
        per_class: items of each class (t in the paper); at least 1. A class with fewer repeats them.
        seed: any integer from 0; each seed is another sequence of batches.
        probes_per_class: items of a class embedded to tell where it lies.

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
        """Batches in which every class is a seed."""
        return self._rows.rounds(self._groups)

    def batch(self, step: int) -> np.ndarray:
        """The int64 rows of this step, class by class, a seed before its neighbours."""
        random = np.random.default_rng((self._seed, CANDIDATES, step))
        number, seeds, _ = self._rows.visit(step, self._groups)
        chosen = self._with_neighbors(seeds, self._wanted, random)
        return self._rows.drawn(random, number, chosen, self._per_class).ravel()
