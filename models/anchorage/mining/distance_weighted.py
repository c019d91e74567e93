"""Distance-weighted sampling of negatives: Wu, Manmatha, Smola & Kraehenbuehl, ICCV 2017, section 3.2."""

import keras
from keras import ops

from anchorage.geometry import lowest

_TINY = 1e-12
_TURNS = 4  # draws of an anchor that are looked up at a time
_NUMBERS = 64  # random numbers of an anchor; further draws are sums of two


def negative_probabilities(distances, negatives, dim: int, cutoff: float = 0.5, nonzero_loss_cutoff: float = 1.4):
    """How likely each negative is to be drawn for each anchor: inverse to the density of distances on the sphere.

    Formula: `log w = (2 - D) log d - (D - 3) / 2 log(1 - d^2 / 4)` with `d = max(distance, cutoff)`, made a
    probability over the negatives of an anchor nearer than `nonzero_loss_cutoff`. An anchor without such gets
    equal probabilities on all its negatives.

    Args:
        distances: `(N, M)` Euclidean distances of unit rows.
        negatives: `(N, M)` bool mask.
        dim: embedding size D, at least 2.
        cutoff: distances below it count as this.
        nonzero_loss_cutoff: distances from here on are not drawn.

    Returns:
        `(N, M)` float tensor; rows sum to 1, or to 0 for an anchor without negatives.
    """
    clipped = ops.maximum(distances, cutoff)
    log_weights = (2.0 - dim) * ops.log(clipped)
    log_weights = log_weights - 0.5 * (dim - 3.0) * ops.log(ops.maximum(1.0 - 0.25 * ops.square(clipped), _TINY))
    eligible = ops.logical_and(negatives, clipped < nonzero_loss_cutoff)
    some = ops.any(eligible, axis=1, keepdims=True)
    eligible = ops.where(some, eligible, negatives)
    log_weights = ops.where(some, log_weights, ops.zeros_like(log_weights))
    probabilities = ops.softmax(ops.where(eligible, log_weights, lowest(log_weights)), axis=1)
    return ops.where(eligible, probabilities, ops.zeros_like(probabilities))


def count_drawn_negatives(probabilities, times, seed: keras.random.SeedGenerator):
    """Draw negatives for every anchor, any two draws independent of each other.

    A random number is the fractional part of the sum of one of 64 and one of few others: a number of its own for every
    draw that there could be would cost more than all the rest.

    Args:
        probabilities: `(N, M)` float tensor, as from `negative_probabilities`.
        times: `(N,)` float tensor, how many to draw for each anchor, at most M. A row of zeros draws none.
        seed: moved on by each call.

    Returns:
        `(N, M)` float tensor: how often column j was drawn for anchor i.
    """
    steps = ops.cumsum(probabilities, axis=1)
    total = steps[:, -1]
    rows, columns = ops.shape(probabilities)
    numbers, shifts = (
        keras.random.uniform((rows, count), dtype=probabilities.dtype, seed=seed)
        for count in (_NUMBERS, columns // _NUMBERS + 1)
    )
    times = ops.where(total > 0, times, ops.zeros_like(times))

    def passed(turn):
        """Which columns the draw of this turn lies beyond, as zeros and ones."""
        last = ops.minimum(turn, columns - 1)
        number = ops.take(numbers, last % _NUMBERS, axis=1) + ops.take(shifts, last // _NUMBERS, axis=1)
        height = (number - ops.floor(number)) * total
        height = ops.where(ops.cast(turn, times.dtype) < times, height, -1.0)
        return ops.cast(steps <= height[:, None], "int8")

    def step(turn, beyond):  # some turns at a time, for what costs is to walk through the large tensors
        return turn + _TURNS, beyond + ops.cast(sum(passed(turn + later) for later in range(_TURNS)), beyond.dtype)

    # How many of an anchor's draws lie beyond each column; those beyond one and not beyond the next fell on the next.
    start = (ops.zeros_like(ops.arange(1)[0]), ops.zeros_like(probabilities))
    beyond = ops.while_loop(lambda turn, _: ops.cast(turn, times.dtype) < ops.max(times), step, start)[1]
    return ops.concatenate([times[:, None], beyond[:, :-1]], axis=1) - beyond
