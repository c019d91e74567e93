"""Distance-weighted sampling of negatives: Wu, Manmatha, Smola & Kraehenbuehl, ICCV 2017, section 3.2."""

import keras
from keras import ops

from anchorage.geometry import lowest

_TINY = 1e-12
_DRAWS_PER_STEP = 4  # of each anchor
_UNIFORMS = 64  # random numbers per anchor; further draws combine two numbers


def negative_probabilities(distances, negatives, dim: int, cutoff: float = 0.5, nonzero_loss_cutoff: float = 1.4):
    """Sampling probabilities of the negatives, inverse to the density of pairwise distances on the unit sphere.

    Formula: `log w = (2 - D) log d - (D - 3) / 2 log(1 - d^2 / 4)` with `d = max(distance, cutoff)`, normalized over
    the negatives of an anchor with `d < nonzero_loss_cutoff`. An anchor with none of these samples all its negatives
    uniformly.

    Args:
        distances: `(N, M)` Euclidean distances of unit vectors.
        negatives: `(N, M)` bool mask.
        dim: embedding size D, at least 2.
        cutoff: lower bound applied to the distances.
        nonzero_loss_cutoff: negatives at this distance or farther are not sampled.

    Returns:
        `(N, M)` float tensor; rows sum to 1, or to 0 for an anchor without negatives.
    """
    clipped = ops.maximum(distances, cutoff)
    log_weights = (2.0 - dim) * ops.log(clipped)
    log_weights = log_weights - 0.5 * (dim - 3.0) * ops.log(ops.maximum(1.0 - 0.25 * ops.square(clipped), _TINY))
    eligible = ops.logical_and(negatives, clipped < nonzero_loss_cutoff)
    any_eligible = ops.any(eligible, axis=1, keepdims=True)
    eligible = ops.where(any_eligible, eligible, negatives)
    log_weights = ops.where(any_eligible, log_weights, ops.zeros_like(log_weights))
    probabilities = ops.softmax(ops.where(eligible, log_weights, lowest(log_weights)), axis=1)
    return ops.where(eligible, probabilities, ops.zeros_like(probabilities))


def count_drawn_negatives(probabilities, times, seed: keras.random.SeedGenerator):
    """Sample negatives for every anchor with replacement, by inverting the cumulative probabilities.

    The draws are pairwise independent: each uniform number is the fractional part of the sum of one of 64 numbers and
    one of a few others, as drawing one uniform per sample would dominate the cost.

    Args:
        probabilities: `(N, M)` float tensor, as from `negative_probabilities`.
        times: `(N,)` float tensor, the number of draws per anchor, at most M. A row of zeros draws none.
        seed: generator, advanced by each call.

    Returns:
        `(N, M)` float tensor: how often negative j was drawn for anchor i.
    """
    cumulative = ops.cumsum(probabilities, axis=1)
    total = cumulative[:, -1]
    rows, columns = ops.shape(probabilities)
    uniforms, shifts = (
        keras.random.uniform((rows, count), dtype=probabilities.dtype, seed=seed)
        for count in (_UNIFORMS, columns // _UNIFORMS + 1)
    )
    times = ops.where(total > 0, times, ops.zeros_like(times))

    def is_beyond(draw):
        """1 for every column whose cumulative probability lies below this draw, else 0."""
        index = ops.minimum(draw, columns - 1)
        uniform = ops.take(uniforms, index % _UNIFORMS, axis=1) + ops.take(shifts, index // _UNIFORMS, axis=1)
        threshold = (uniform - ops.floor(uniform)) * total
        threshold = ops.where(ops.cast(draw, times.dtype) < times, threshold, -1.0)
        return ops.cast(cumulative <= threshold[:, None], "int8")

    def step(draw, beyond):  # several draws per step, as memory traffic over the (N, M) tensors dominates
        counts = sum(is_beyond(draw + later) for later in range(_DRAWS_PER_STEP))
        return draw + _DRAWS_PER_STEP, beyond + ops.cast(counts, beyond.dtype)

    # `beyond` counts the draws beyond each column; a draw beyond column j - 1 but not beyond j hits j.
    start = (ops.zeros_like(ops.arange(1)[0]), ops.zeros_like(probabilities))
    beyond = ops.while_loop(lambda draw, _: ops.cast(draw, times.dtype) < ops.max(times), step, start)[1]
    return ops.concatenate([times[:, None], beyond[:, :-1]], axis=1) - beyond
