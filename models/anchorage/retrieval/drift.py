"""A two-sample test for drift: whether queries come from the distribution of reference queries.

Each test is an energy distance (Szekely & Rizzo, J. Stat. Plann. Inference 2013) with a distance of its own between two
queries, such as that of their embeddings. All tests are permuted together and the largest score decides (Westfall &
Young 1993), so that the false-alarm rate holds for the tests of a window as a whole, whatever their correlation.
"""

from dataclasses import dataclass

import numpy as np

from anchorage.errors import DataError
from anchorage.retrieval.exact import best_rows

TESTS = ("distance", "embedding", "hubs", "unknown")

_SAME = 1 - 1e-5  # similarity from which a gallery item counts as the query itself
_SPARE = 8  # neighbors searched beyond `neighbors`, as some are the query itself
_LEAST_ROUNDS = 999
_BLOCK = 4096  # queries per search


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Observed:
    """Queries and what they find in a gallery.

    Args:
        vectors: `(N, D)` float32 embeddings.
        neighbors: `(N, k)` int64 rows of the nearest gallery items, nearest first; -1 where there are fewer.
        distances: `(N,)` float32 cosine distance of the nearest item, in [0, 2]; 2 if there is none.
        unknown: `(N,)` bool, whether the nearest item is farther than the release's threshold; None without one.
    """

    vectors: np.ndarray
    neighbors: np.ndarray
    distances: np.ndarray
    unknown: np.ndarray | None

    def __len__(self) -> int:
        return len(self.vectors)

    def select(self, rows: np.ndarray | slice) -> "Observed":
        """Select queries."""
        unknown = None if self.unknown is None else self.unknown[rows]
        return Observed(self.vectors[rows], self.neighbors[rows], self.distances[rows], unknown)


@dataclass(frozen=True)
class WindowTest:
    """Comparison of a window of queries with the reference.

    Args:
        scores: test -> its score: standard deviations above the mean of its permutations, on a scale on which these are
            nearly normal.
        p_values: test -> its p-value, adjusted for the number of tests.
        limit: score above which a test is significant.
        rounds: number of permutations.
    """

    scores: dict[str, float]
    p_values: dict[str, float]
    limit: float
    rounds: int

    @property
    def drifted(self) -> list[str]:
        """The significant tests, the most significant first."""
        return sorted((name for name in self.scores if self.scores[name] > self.limit), key=lambda n: -self.scores[n])


def observe(vectors: np.ndarray, gallery: np.ndarray, neighbors: int, unknown_below: float | None = None) -> Observed:
    """Search queries in a gallery, exactly; a gallery item with the embedding of the query is left out.

    Args:
        vectors: `(N, D)` embeddings of unit length.
        gallery: `(M, D)` float32 embeddings of unit length.
        neighbors: number of neighbors.
        unknown_below: similarity below which a query counts as unknown, or None.

    Raises:
        DataError: `E_QUERY_SHAPE` if the dimensions differ.
    """
    if vectors.ndim != 2 or vectors.shape[1] != gallery.shape[1]:
        raise DataError(
            "E_QUERY_SHAPE",
            f"Expected queries of dimension {gallery.shape[1]}, as the gallery has. Received: shape {vectors.shape}",
        )
    vectors = np.ascontiguousarray(vectors, np.float32)
    every = np.arange(len(gallery))
    rows = np.full((len(vectors), neighbors), -1, np.int64)
    nearest = np.full(len(vectors), -1, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        found, scores = best_rows(vectors[start : start + _BLOCK], gallery, neighbors + _SPARE, every)
        order = np.argsort(scores >= _SAME, axis=1, kind="stable")  # the query itself goes to the end
        found, scores = np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1)
        found[scores >= _SAME] = -1
        width = min(neighbors, found.shape[1])
        rows[start : start + _BLOCK, :width] = found[:, :width]
        some = found[:, 0] >= 0
        nearest[start : start + _BLOCK][some] = scores[some, 0]
    unknown = None if unknown_below is None else nearest < unknown_below
    return Observed(vectors, rows, 1 - nearest, unknown)


def compare_window(reference: Observed, window: Observed, *, rate: float, seed: int = 0) -> WindowTest:
    """Test whether a window comes from the distribution of the reference.

    With pairwise distances `D` of both together and `z` = 1/n on the window, -1/m on the reference, a test's statistic
    is the energy distance `-z' D z`, 2 E d(X, Y) - E d(X, X') - E d(Y, Y'). Its cube root is standardised by the
    permutations of `z`, and compared with the largest such score of each permutation.

    Args:
        reference: m queries.
        window: n queries.
        rate: probability of a significant test if both have one distribution, in (0, 1).
        seed: seed of the permutations, whose number is about twice what `rate` needs and at least 999.
    """
    from threadpoolctl import threadpool_limits

    rounds = max(_LEAST_ROUNDS, int(np.ceil(2 / rate)) - 1)
    first, count = len(window), len(window) + len(reference)
    random, signs = np.random.default_rng(seed), np.empty((count, rounds + 1), np.float32)
    signs[:] = -1 / len(reference)
    signs[:first, 0] = 1 / first
    for each in range(1, rounds + 1):
        signs[random.permutation(count)[:first], each] = 1 / first
    scores = {}
    with threadpool_limits(1):  # the same sums on any number of cores
        for name, pairwise in _pairwise(window, reference).items():
            statistics = np.cbrt(np.maximum(0.0, -(signs * (pairwise @ signs)).sum(axis=0, dtype=np.float64)))
            spread = statistics[1:].std()
            centred = statistics - statistics[1:].mean()
            scores[name] = centred / spread if spread > 1e-9 else np.zeros(rounds + 1)
    largest = np.sort(np.max([score[1:] for score in scores.values()], axis=0))[::-1]
    allowed = int(
        rate * (rounds + 1)
    )  # so many permutations, the window's own among them, may reach a significant score
    above = {name: int((largest >= score[0]).sum()) for name, score in scores.items()}
    return WindowTest(
        scores={name: float(score[0]) for name, score in scores.items()},
        p_values={name: (1 + count) / (rounds + 1) for name, count in above.items()},
        limit=float(largest[allowed - 1]),
        rounds=rounds,
    )


def _pairwise(window: Observed, reference: Observed) -> dict[str, np.ndarray]:
    """Return the `(n + m, n + m)` distances between all queries for each test, centred for the sake of float32."""
    vectors = np.concatenate([window.vectors, reference.vectors]).astype(np.float64)
    nearest = np.concatenate([window.distances, reference.distances]).astype(np.float64)
    pairs = {
        "distance": np.abs(nearest[:, None] - nearest),
        "embedding": np.sqrt(np.maximum(0.0, _squared(vectors))),
        "hubs": -_shared(np.concatenate([window.neighbors, reference.neighbors])),
    }
    if window.unknown is not None and reference.unknown is not None:
        unknown = np.concatenate([window.unknown, reference.unknown])
        pairs["unknown"] = (unknown[:, None] != unknown).astype(np.float64)
    return {name: _centred(pairs[name]).astype(np.float32) for name in TESTS if name in pairs}


def _squared(vectors: np.ndarray) -> np.ndarray:
    norms = np.einsum("nd,nd->n", vectors, vectors)
    return norms[:, None] + norms - 2 * vectors @ vectors.T


def _shared(neighbors: np.ndarray) -> np.ndarray:
    """Return how many neighbors two queries share, as a share of all."""
    found, columns = np.unique(neighbors, return_inverse=True)
    occurs = np.zeros((len(neighbors), len(found)), np.float32)
    np.put_along_axis(occurs, columns.reshape(neighbors.shape), 1.0, axis=1)
    if found[0] < 0:
        occurs[:, 0] = 0.0  # no neighbor
    return (occurs @ occurs.T).astype(np.float64) / neighbors.shape[1]


def _centred(pairwise: np.ndarray) -> np.ndarray:
    """Subtract row and column means, which changes no energy distance."""
    means = pairwise.mean(axis=0)
    return pairwise - means - means[:, None] + means.mean()
