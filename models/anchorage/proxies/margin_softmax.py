"""What the softmax losses with a margin in the own class's logit share."""

import math

from keras import ops

from anchorage.pairs.reducers import Reducer, reduce_costs
from anchorage.proxies.logits import nearest, target_and_others

_SMALLEST_SINE = 1e-7  # squared: keeps the gradient of the angle finite at 0 and 180 degrees


def softmax_with_target_logit(rows, proxies, labels, change, reducer: Reducer, row_weights=None, aggregate=nearest):
    """Cross-entropy after the logit of the own class was changed.

    Args:
        rows: `(N, D)` float tensor; its inner products with the proxies are the logits.
        proxies: `(C, K, D)` float tensor, K for each class.
        labels: `(N,)` integer tensor in `0 .. C - 1`.
        change: function of the `(N,)` own logits giving the new ones.
        reducer: see `anchorage.pairs.reducers`.
        row_weights: `(N,)` factors on the costs, or None.
        aggregate: what makes one logit of those of the K proxies, see `anchorage.proxies.logits`.

    Returns:
        Scalar.
    """
    own, others = target_and_others(rows, proxies, labels, aggregate)
    own = change(own)
    # Softplus of the difference: the log-sum-exp over all classes less the own logit loses small costs to rounding.
    costs = ops.softplus(others - own) if proxies.shape[0] != 1 else 0.0 * own
    costs = costs if row_weights is None else costs * row_weights
    return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), reducer, labels)


def cosine_of_sum(cosine, angle_cosine: float, angle_sine: float):
    """`cos(theta + m)` from `cos(theta)`, `cos(m)` and `sin(m)`, for theta in [0, pi]; no arc cosine."""
    sine = ops.sqrt(ops.maximum(1.0 - ops.square(cosine), _SMALLEST_SINE))
    return cosine * angle_cosine - sine * angle_sine


def falling_cosine_of_multiple(cosine, times: int):
    """`(-1)^k cos(m theta) - 2 k` with `k = floor(m theta / pi)`: falls from 1 to `1 - 2 m` over [0, pi].

    Args:
        cosine: float tensor, `cos(theta)`.
        times: m, a whole number.
    """
    before, multiple = ops.ones_like(cosine), cosine
    for _ in range(times - 1):
        before, multiple = multiple, 2.0 * cosine * multiple - before
    turns = ops.zeros_like(cosine)
    for j in range(1, times):
        turns = turns + ops.cast(cosine <= math.cos(j * math.pi / times), cosine.dtype)
    sign = 1.0 - 2.0 * ops.mod(turns, 2.0)
    return sign * multiple - 2.0 * turns
