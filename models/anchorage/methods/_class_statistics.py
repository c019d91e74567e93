"""How the embeddings of a class vary: means and variances of each channel, kept running, and mended for small classes.

Fu, Mao, Hu, Liu & Zhang, IEEE Transactions on Multimedia 2022. NumPy in float64: it happens between epochs.
"""

from typing import NamedTuple

import numpy as np

_ROWS = 256  # classes compared with all others at a time


class ClassStatistics(NamedTuple):
    """Diagonal Gaussians of C classes.

    Args:
        mean: `(C, D)`.
        variance: `(C, D)`, biased; 0 for a class with one item or none.
        items_seen: `(C,)`.
    """

    mean: np.ndarray
    variance: np.ndarray
    items_seen: np.ndarray


class Correction(NamedTuple):
    """What a variance of few items becomes, and how.

    Args:
        variance: `(C, D)` corrected variances.
        share: `(C,)` how much of each class's own was replaced (alpha in the paper).
        neighbors: `(C, K)` classes it was replaced by, nearest first.
        of_neighbors: `(C, D)` their weighted variance.
        of_all: `(D,)` variance over all classes.
    """

    variance: np.ndarray
    share: np.ndarray
    neighbors: np.ndarray
    of_neighbors: np.ndarray
    of_all: np.ndarray


def class_statistics(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> ClassStatistics:
    """Statistics of `(M, D)` embeddings; mean and variance of a class without items are 0."""
    embeddings = np.asarray(embeddings, "float64")
    count = np.bincount(labels, minlength=num_classes).astype("float64")
    divisor = np.maximum(count, 1.0)[:, None]
    mean = _sum_by_class(embeddings, labels, num_classes) / divisor
    variance = _sum_by_class((embeddings - mean[labels]) ** 2, labels, num_classes) / divisor
    return ClassStatistics(mean, variance, count)


def merge_statistics(before: ClassStatistics, new: ClassStatistics, momentum: float) -> ClassStatistics:
    """Running statistics: the new ones weigh as their share of all items, at least `1 - momentum`.

    With w the weight, a class without new items having w = 0:

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
    """Draw the variances of classes with few items towards those of similar classes and of all.

    With n items in class k, `a_i` and `b_i` the distances of squared means and of variances to class i, at least two
    items in i, and the nearest `neighbors` classes by a:

        share = 1 / (1 + ln(1 + beta (n - 1)))   if 1 <= n <= tau, else 0
        of_neighbors = sum_i w_i variance_i / sum_i w_i
        w_i = n_i exp(-a_i^2 / (2 sigma_m^2) - b_i^2 / (2 sigma_cv^2))
        variance = (1 - share) variance_k + share ((1 - gamma) of_neighbors + gamma of_all)

    `distance_norm` is `"minmax"` for distances scaled to [0, 1] over the other classes, as in the authors' code but
    over those with two items alone, or `"none"`, as in the paper. The count rule is the paper's, `n <= tau`.
    """
    _, variance, count = statistics
    eligible = np.flatnonzero(count >= 2)
    share = np.where(count <= tau, 1.0 / (1.0 + np.log1p(beta * np.maximum(count - 1.0, 0.0))), 0.0)
    share = np.where(count > 0, share, 0.0)
    if not len(eligible):
        nothing = np.zeros_like(variance)
        return Correction(variance, 0.0 * share, np.empty((len(count), 0), int), nothing, nothing[0])
    of_all = np.average(variance[eligible], axis=0, weights=count[eligible])
    found, of_neighbors = [], np.empty_like(variance)
    for start in range(0, len(count), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(count)))
        near, weights = _weigh_neighbors(statistics, rows, eligible, neighbors, sigma_m, sigma_cv, distance_norm)
        found.append(near)
        of_neighbors[rows] = np.einsum("rk,rkd->rd", weights, variance[near])
    alone = (eligible[:1] == np.arange(len(count))) & (len(eligible) == 1)  # nobody else to learn from
    share = np.where(alone, 0.0, share)
    drawn = (1.0 - gamma) * of_neighbors + gamma * of_all
    corrected = variance + share[:, None] * (drawn - variance)
    return Correction(corrected, share, np.concatenate(found), of_neighbors, of_all)


def _weigh_neighbors(statistics, rows, eligible, neighbors, sigma_m, sigma_cv, distance_norm):
    """Nearest eligible classes of some classes, and weights that sum to 1 in each row."""
    from scipy.spatial.distance import cdist

    mean, variance, count = statistics
    others = eligible[None, :] != rows[:, None]
    by_mean = cdist(mean[rows] ** 2, mean[eligible] ** 2)
    by_variance = cdist(variance[rows], variance[eligible])
    order = np.argsort(np.where(others, by_mean, np.inf), axis=1, kind="stable")
    order = order[:, :neighbors]  # a class comes last among its own neighbours, and weighs nothing
    if distance_norm == "minmax":
        by_mean, by_variance = _to_unit_range(by_mean, others), _to_unit_range(by_variance, others)
    exponents = -(by_mean**2) / (2 * sigma_m**2) - by_variance**2 / (2 * sigma_cv**2)
    exponents = np.where(np.take_along_axis(others, order, 1), np.take_along_axis(exponents, order, 1), -np.inf)
    top = exponents.max(axis=1, keepdims=True)
    weights = count[eligible][order] * np.exp(exponents - np.where(np.isfinite(top), top, 0.0))
    return eligible[order], weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def _to_unit_range(distances, others):
    low = np.where(others, distances, np.inf).min(axis=1, keepdims=True)
    high = np.where(others, distances, -np.inf).max(axis=1, keepdims=True)
    apart = np.isfinite(high) & (high > low)
    return np.where(apart, (distances - np.where(apart, low, 0.0)) / np.where(apart, high - low, 1.0), 0.0)


def _sum_by_class(values: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    sums = np.zeros((num_classes, values.shape[1]))
    np.add.at(sums, labels, values)
    return sums
