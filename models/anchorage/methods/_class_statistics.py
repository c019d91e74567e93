"""Running means and variances of the embeddings of each class, with a correction for small classes.

Fu, Mao, Hu, Liu & Zhang, IEEE Transactions on Multimedia 2022. Computed between epochs, in NumPy and float64.
"""

from typing import NamedTuple

import numpy as np

_BLOCK = 256  # classes compared with all others at a time


class ClassStatistics(NamedTuple):
    """Diagonal Gaussians of C classes.

    Args:
        mean: `(C, D)`.
        variance: `(C, D)`, biased; 0 for a class with fewer than two samples.
        items_seen: `(C,)` sample counts.
    """

    mean: np.ndarray
    variance: np.ndarray
    items_seen: np.ndarray


class Correction(NamedTuple):
    """Result of `correct_variances`.

    Args:
        variance: `(C, D)` corrected variances.
        share: `(C,)` fraction of each variance that was replaced (alpha in the paper).
        neighbors: `(C, K)` similar classes, nearest first.
        of_neighbors: `(C, D)` weighted mean of their variances.
        of_all: `(D,)` weighted mean of the variances of all classes.
    """

    variance: np.ndarray
    share: np.ndarray
    neighbors: np.ndarray
    of_neighbors: np.ndarray
    of_all: np.ndarray


def class_statistics(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> ClassStatistics:
    """Statistics of `(M, D)` embeddings; mean and variance of a class without samples are 0."""
    embeddings = np.asarray(embeddings, "float64")
    count = np.bincount(labels, minlength=num_classes).astype("float64")
    divisor = np.maximum(count, 1.0)[:, None]
    mean = _sum_by_class(embeddings, labels, num_classes) / divisor
    variance = _sum_by_class((embeddings - mean[labels]) ** 2, labels, num_classes) / divisor
    return ClassStatistics(mean, variance, count)


def merge_statistics(before: ClassStatistics, new: ClassStatistics, momentum: float) -> ClassStatistics:
    """Update running statistics; the new ones weigh by their share of all samples, at least `1 - momentum`.

    With w the weight, which is 0 for a class without new samples:

        variance = (1 - w) variance + w variance_new + w (1 - w) (mean - mean_new)^2
        mean = (1 - w) mean + w mean_new
    """
    count = before.items_seen + new.items_seen
    weight = np.maximum(new.items_seen / np.maximum(count, 1.0), 1.0 - momentum)
    weight = np.where(new.items_seen > 0, weight, 0.0)[:, None]
    between = weight * (1.0 - weight) * (before.mean - new.mean) ** 2
    variance = (1.0 - weight) * before.variance + weight * new.variance + between
    return ClassStatistics((1.0 - weight) * before.mean + weight * new.mean, variance, count)


def correct_variances(
    statistics: ClassStatistics,
    *,
    neighbors: int,
    beta: float,
    gamma: float,
    tau: float,
    sigma_m: float,
    sigma_cv: float,
    distance_norm: str,
) -> Correction:
    """Shrink the variances of small classes towards those of similar classes and of all classes.

    For class k with n samples, over the `neighbors` classes i with at least two samples and the smallest distance a_i,
    with `a_i = |mean_i^2 - mean_k^2|` and `b_i = |variance_i - variance_k|`:

        w_i = n_i exp(-a_i^2 / (2 sigma_m^2) - b_i^2 / (2 sigma_cv^2))
        of_neighbors = sum_i w_i variance_i / sum_i w_i
        of_all = mean of the variances of all classes with at least two samples, weighted by n_i
        share = 1 / (1 + ln(1 + beta (n - 1)))   if 1 <= n <= tau (as in the paper), else 0
        variance = (1 - share) variance_k + share ((1 - gamma) of_neighbors + gamma of_all)

    `distance_norm="minmax"` scales a and b to [0, 1] over the other classes, as in the authors' code but without
    classes of a single sample; `"none"` does not, as in the paper.
    """
    _, variance, count = statistics
    eligible = np.flatnonzero(count >= 2)
    share = np.where(count <= tau, 1.0 / (1.0 + np.log1p(beta * np.maximum(count - 1.0, 0.0))), 0.0)
    share = np.where(count > 0, share, 0.0)
    if not len(eligible):
        zeros = np.zeros_like(variance)
        return Correction(variance, 0.0 * share, np.empty((len(count), 0), int), zeros, zeros[0])
    of_all = np.average(variance[eligible], axis=0, weights=count[eligible])
    blocks, of_neighbors = [], np.empty_like(variance)
    for start in range(0, len(count), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(count)))
        nearest, weights = _weigh_neighbors(statistics, rows, eligible, neighbors, sigma_m, sigma_cv, distance_norm)
        blocks.append(nearest)
        of_neighbors[rows] = np.einsum("rk,rkd->rd", weights, variance[nearest])
    only_eligible = (eligible[:1] == np.arange(len(count))) & (len(eligible) == 1)  # it has no neighbors
    share = np.where(only_eligible, 0.0, share)
    target = (1.0 - gamma) * of_neighbors + gamma * of_all
    corrected = variance + share[:, None] * (target - variance)
    return Correction(corrected, share, np.concatenate(blocks), of_neighbors, of_all)


def _weigh_neighbors(statistics, rows, eligible, neighbors, sigma_m, sigma_cv, distance_norm):
    """The nearest eligible classes of the classes `rows`, and weights that sum to 1 in each row."""
    from scipy.spatial.distance import cdist

    mean, variance, count = statistics
    others = eligible[None, :] != rows[:, None]
    by_mean = cdist(mean[rows] ** 2, mean[eligible] ** 2)
    by_variance = cdist(variance[rows], variance[eligible])
    order = np.argsort(np.where(others, by_mean, np.inf), axis=1, kind="stable")
    order = order[:, :neighbors]  # a class sorts last among its own neighbors and gets weight 0
    if distance_norm == "minmax":
        by_mean, by_variance = _to_unit_range(by_mean, others), _to_unit_range(by_variance, others)
    exponents = -(by_mean**2) / (2 * sigma_m**2) - by_variance**2 / (2 * sigma_cv**2)
    exponents = np.where(np.take_along_axis(others, order, 1), np.take_along_axis(exponents, order, 1), -np.inf)
    largest = exponents.max(axis=1, keepdims=True)
    weights = count[eligible][order] * np.exp(exponents - np.where(np.isfinite(largest), largest, 0.0))
    return eligible[order], weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def _to_unit_range(distances, others):
    low = np.where(others, distances, np.inf).min(axis=1, keepdims=True)
    high = np.where(others, distances, -np.inf).max(axis=1, keepdims=True)
    distinct = np.isfinite(high) & (high > low)
    return np.where(distinct, (distances - np.where(distinct, low, 0.0)) / np.where(distinct, high - low, 1.0), 0.0)


def _sum_by_class(values: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    sums = np.zeros((num_classes, values.shape[1]))
    np.add.at(sums, labels, values)
    return sums
