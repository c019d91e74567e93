"""Base class of the embedding-aware samplers, with class centers that the training loop updates."""

from collections.abc import Mapping

import numpy as np

from anchorage.data.sampling._class_rows import PROBES, ClassRows
from anchorage.errors import DataError
from anchorage.vectors import unit_vectors


class CentredSampler:
    """Base class of samplers whose batches depend on seed, step and class centers.

    The training loop embeds the rows `probes(step)` with the current network and passes the embeddings to `update`,
    before the first step and after each epoch; shorter epochs update more often. `get_state` and `set_state` save and
    restore the centers in checkpoints, so that a resumed training gets the same batches. Before the first update, and
    if `refreshes` is False, classes are chosen at random.

    Args:
        rows: rows by class.
        seed: non-negative integer.
        refreshes: whether centers are used.
        probes_per_class: items per class whose mean embedding is the center.
        neighbors: number of nearest classes to store per class.
    """

    def __init__(
        self, rows: ClassRows, seed: int, refreshes: bool = True, probes_per_class: int = 2, neighbors: int = 0
    ):
        self._rows, self._seed, self._probes_per_class = rows, seed, probes_per_class
        self._wanted_neighbors = neighbors
        self._neighbors: np.ndarray | None = None
        self.refreshes = refreshes
        self.centres: np.ndarray | None = None

    def probes(self, step: int) -> np.ndarray:
        """Return the rows `(C * probes_per_class,)` to embed before this step, class by class."""
        random = np.random.default_rng((self._seed, PROBES, step))
        chosen = np.arange(len(self._rows))
        return self._rows.draw(random, 0, chosen, self._probes_per_class).ravel()

    def update(self, embeddings: np.ndarray) -> None:
        """Update the centers from the embeddings `(C * probes_per_class, D)` of the probes.

        Raises:
            DataError: E_LOSS_NOT_FINITE if an embedding is NaN or infinite.
        """
        embeddings = np.asarray(embeddings, np.float32)
        if not np.isfinite(embeddings).all():
            raise DataError("E_LOSS_NOT_FINITE", "Expected finite embeddings of the probes. Received: NaN or infinity.")
        self._set_centres(self._to_centres(embeddings.reshape(len(self._rows), -1, embeddings.shape[1])))

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the state that `batch` depends on in addition to seed and step."""
        return {} if self.centres is None else {"centres": self.centres}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the result of `get_state`."""
        if "centres" in state:
            self._set_centres(state["centres"])

    def _to_centres(self, grouped: np.ndarray) -> np.ndarray:
        """Compute the mean of the normalized embeddings `(C, probes_per_class, D)` of each class."""
        return unit_vectors(grouped).mean(axis=1)

    def _set_centres(self, centres: np.ndarray) -> None:
        if self._wanted_neighbors:
            self._neighbors = nearest_classes(centres, self._wanted_neighbors)
        self.centres = centres

    def _with_neighbors(self, seeds: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
        """Return `wanted` distinct classes: the seeds and classes near them, or random ones before the first update."""
        if self._neighbors is not None:
            return add_neighbors(seeds, self._neighbors, wanted)
        others = np.setdiff1d(np.arange(len(self._rows)), seeds)
        return np.concatenate([seeds, random.choice(others, wanted - len(seeds), replace=False)])


def nearest_classes(centres: np.ndarray, count: int, block: int = 1024) -> np.ndarray:
    """Find the `count` other classes with the largest dot product of centers for each class, nearest first.

    Args:
        centres: `(C, D)` class centers.
        count: from 1 to C - 1.
        block: number of classes per block, which limits the memory.

    Returns:
        `(C, count)` int64 class numbers.
    """
    neighbors = np.empty((len(centres), count), np.int64)
    for start in range(0, len(centres), block):
        stop = min(start + block, len(centres))
        scores = centres[start:stop] @ centres.T
        scores[np.arange(stop - start), np.arange(start, stop)] = -np.inf
        near = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
        neighbors[start:stop] = np.take_along_axis(near, order, axis=1)
    return neighbors


def add_neighbors(seeds: np.ndarray, neighbors: np.ndarray, wanted: int) -> np.ndarray:
    """Add to each seed class an equal number of its nearest classes that are not in the batch yet.

    Args:
        seeds: `(G,)` distinct classes.
        neighbors: `(C, wanted - 1)` from `nearest_classes`.
        wanted: total number of classes.

    Returns:
        `(wanted,)` distinct classes: a seed, its neighbors, the next seed, ...
    """
    taken, left = set(seeds.tolist()), wanted - len(seeds)
    share = -(-left // len(seeds))
    chosen: list[int] = []
    for seed in seeds.tolist():
        fresh = [other for other in neighbors[seed].tolist() if other not in taken][: min(share, left)]
        taken.update(fresh)
        left -= len(fresh)
        chosen += [seed, *fresh]
    return np.array(chosen, np.int64)
