"""What samplers share that go by where the classes lie: centres of a few items each, refreshed from outside."""

from collections.abc import Mapping

import numpy as np

from anchorage.data.sampling._class_rows import PROBES, ClassRows
from anchorage.errors import DataError

_SHORTEST = 1e-12  # a row shorter than this has no direction


class CentredSampler:
    """Base of the samplers whose batches hang on (seed, step, centres).

    The training loop embeds the rows `probes(step)` with the network as it is and hands the embeddings to `update`,
    before the first step and after each epoch; a shorter epoch refreshes more often. `get_state` and `set_state` put
    the centres into a checkpoint and back, so that a training that goes on gets the batches it would have got. Before
    the first update, and for ever where `refreshes` is False, classes are drawn at random.

    Args:
        rows: the rows by class.
        seed: any integer from 0.
        refreshes: whether centres are wanted at all.
        probes_per_class: items of a class that make up its centre.
        neighbors: how many of the nearest classes of each class are kept at hand.
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
        """The `(C * probes_per_class,)` rows to embed before this step, class by class."""
        random = np.random.default_rng((self._seed, PROBES, step))
        chosen = np.arange(len(self._rows))
        return self._rows.drawn(random, 0, chosen, self._probes_per_class).ravel()

    def update(self, embeddings: np.ndarray) -> None:
        """Take the embeddings `(C * probes_per_class, D)` of the last probes.

        Raises:
            DataError: E_LOSS_NOT_FINITE if one is nan or infinite.
        """
        embeddings = np.asarray(embeddings, np.float32)
        if not np.isfinite(embeddings).all():
            raise DataError("E_LOSS_NOT_FINITE", "Expected finite embeddings to choose classes by. Received: nan.")
        self._settle(self._to_centres(embeddings.reshape(len(self._rows), -1, embeddings.shape[1])))

    def get_state(self) -> dict[str, np.ndarray]:
        """What `batch` hangs on beside seed and step."""
        return {} if self.centres is None else {"centres": self.centres}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Bring back what `get_state` gave."""
        if "centres" in state:
            self._settle(state["centres"])

    def _to_centres(self, grouped: np.ndarray) -> np.ndarray:
        """The mean of each class's unit rows, of `(C, probes_per_class, D)`."""
        return (grouped / np.maximum(np.linalg.norm(grouped, axis=2, keepdims=True), _SHORTEST)).mean(axis=1)

    def _settle(self, centres: np.ndarray) -> None:
        if self._wanted_neighbors:
            self._neighbors = nearest_classes(centres, self._wanted_neighbors)
        self.centres = centres

    def _with_neighbors(self, seeds: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
        """The seed classes and others near them, `wanted` different classes; any others before the first update."""
        if self._neighbors is not None:
            return add_neighbors(seeds, self._neighbors, wanted)
        others = np.setdiff1d(np.arange(len(self._rows)), seeds)
        return np.concatenate([seeds, random.choice(others, wanted - len(seeds), replace=False)])


def nearest_classes(centres: np.ndarray, count: int, block: int = 1024) -> np.ndarray:
    """For each class the `count` others with the largest dot product of centres, nearest first.

    Args:
        centres: `(C, D)`.
        count: at least 1, at most C - 1.
        block: classes looked at together, which bounds the memory.

    Returns:
        `(C, count)` int64.
    """
    found = np.empty((len(centres), count), np.int64)
    for start in range(0, len(centres), block):
        stop = min(start + block, len(centres))
        scores = centres[start:stop] @ centres.T
        scores[np.arange(stop - start), np.arange(start, stop)] = -np.inf
        near = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
        found[start:stop] = np.take_along_axis(near, order, axis=1)
    return found


def add_neighbors(seeds: np.ndarray, neighbors: np.ndarray, wanted: int) -> np.ndarray:
    """Put behind each seed class its nearest classes that are not in the batch yet, evenly, the first seeds first.

    Args:
        seeds: `(G,)` distinct classes.
        neighbors: `(C, wanted - 1)` from `nearest_classes`.
        wanted: classes altogether.

    Returns:
        `(wanted,)` distinct classes: a seed, its neighbours, the next seed, ...
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
