"""Cross-entropy with a modified target logit, shared by the margin softmax losses."""

import math

from keras import ops

from anchorage.pairs.reducers import Reducer, reduce_costs
from anchorage.proxies.logits import nearest, target_and_others

_MIN_SQUARED_SINE = 1e-7  # keeps the gradient of the angle finite at 0 and 180 degrees


def softmax_with_target_logit(rows, proxies, labels, change, reducer: Reducer, row_weights=None, aggregate=nearest):
    """Cross-entropy with the target logit replaced by `change(target_logit)`.

    Args:
        rows: `(N, D)` float tensor; the logits are its inner products with the proxies.
        proxies: `(C, K, D)` float tensor, K proxies per class.
        labels: `(N,)` integer tensor in `0 .. C - 1`.
        change: function from the `(N,)` target logits to the modified ones.
        reducer: see `anchorage.pairs.reducers`.
        row_weights: `(N,)` per-sample weights, or None.
        aggregate: combines the logits of the K proxies of a class, see `anchorage.proxies.logits`.

    Returns:
        Scalar.
    """
    target, others = target_and_others(rows, proxies, labels, aggregate)
    target = change(target)
    # softplus(others - target) keeps small losses that logsumexp(all) - target would lose to rounding.
    costs = ops.softplus(others - target) if proxies.shape[0] != 1 else 0.0 * target
    costs = costs if row_weights is None else costs * row_weights
    return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), reducer, labels)


def cosine_of_sum(cosine, angle_cosine: float, angle_sine: float):
    """`cos(theta + m)` from `cos(theta)`, `cos(m)` and `sin(m)` for theta in [0, pi], without an arc cosine."""
    sine = ops.sqrt(ops.maximum(1.0 - ops.square(cosine), _MIN_SQUARED_SINE))
    return cosine * angle_cosine - sine * angle_sine


def multiple_angle_cosine(cosine, m: int):
    """SphereFace's `psi(theta) = (-1)^k cos(m theta) - 2 k` with `k = floor(m theta / pi)`.

    It decreases monotonically from 1 to `1 - 2 m` over [0, pi].

    Args:
        cosine: float tensor, `cos(theta)`.
        m: integer, at least 1.
    """
    previous, multiple = ops.ones_like(cosine), cosine  # Chebyshev recurrence: cos(0), cos(theta), cos(2 theta), ...
    for _ in range(m - 1):
        previous, multiple = multiple, 2.0 * cosine * multiple - previous
    k = ops.zeros_like(cosine)
    for j in range(1, m):
        k = k + ops.cast(cosine <= math.cos(j * math.pi / m), cosine.dtype)
    sign = 1.0 - 2.0 * ops.mod(k, 2.0)
    return sign * multiple - 2.0 * k
