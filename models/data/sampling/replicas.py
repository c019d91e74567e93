"""The share of each batch that one of several replicas trains on."""

from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import UsageError

if TYPE_CHECKING:
    from models.data.batches import Sampler


class ReplicaBatches:
    """What one of several replicas gets of each batch of a sampler; together they get all of it, each row once.

    All replicas ask the same sampler with the same seed, so nothing has to be passed between them. With `labels` the
    classes of a batch are dealt whole, in the order in which they first appear, and a replica keeps the order of its
    rows: P classes of K items become P / R classes of K items, pairs stay pairs, and representatives stay before the
    other items of their classes. Without `labels` a replica gets a run of consecutive rows.

    Whatever else the sampler has, such as `update`, is its own.

    Args:
        sampler: of the batches of all replicas together.
        replica: number of this one, from 0.
        replicas: how many there are.
        labels: `(M,)` integer class ids, as the sampler got them.

    Raises:
        UsageError: E_SAMPLER if the rows cannot be dealt evenly, or `replica` is not below `replicas`.

    Example:
        >>> from models.data.sampling import ClassBatches
        >>> labels = [0, 0, 1, 1]
        >>> both = ClassBatches(labels, classes=2, per_class=2, seed=0)
        >>> halves = [ReplicaBatches(both, replica, 2, labels).batch(0).tolist() for replica in (0, 1)]
        >>> halves[0] + halves[1] == both.batch(0).tolist()
        True
    """

    def __init__(self, sampler: "Sampler", replica: int, replicas: int, labels=None):
        if not 0 <= replica < replicas:
            raise UsageError("E_SAMPLER", f"`replica` must lie in [0, {replicas}). Received: replica={replica}")
        if sampler.batch_size % replicas:
            raise UsageError(
                "E_SAMPLER",
                f"A batch of {sampler.batch_size} rows cannot be dealt evenly to {replicas} replicas. "
                "Choose a batch size that is a multiple of their number.",
            )
        self._sampler, self._replica, self._replicas = sampler, replica, replicas
        self._labels = None if labels is None else np.asarray(labels)
        self.batch_size = sampler.batch_size // replicas

    def batch(self, step: int) -> np.ndarray:
        """This replica's int64 rows of the step."""
        rows = self._sampler.batch(step)
        if self._labels is None:
            return rows.reshape(self._replicas, -1)[self._replica]
        _, first, numbers, counts = np.unique(
            self._labels[rows], return_index=True, return_inverse=True, return_counts=True
        )
        if len(first) % self._replicas or counts.min() != counts.max():
            raise UsageError(
                "E_SAMPLER",
                f"Expected classes of one size, a multiple of {self._replicas} in number, to deal them whole. "
                f"Received: {len(first)} classes of {counts.min()} to {counts.max()} items.",
            )
        places = np.argsort(np.argsort(first))[numbers]
        return rows[places * self._replicas // len(first) == self._replica]

    def __getattr__(self, name: str) -> Any:
        if name == "_sampler":  # not yet set, while being copied
            raise AttributeError(name)
        return getattr(self._sampler, name)
