"""The rules of miners that losses apply as well."""

import math

from keras import ops


def mine_pairs(similarities, positives, negatives, eps: float):
    """The pairs that are hard beside the anchor's pairs of the other kind; strict comparisons.

    Args:
        similarities: `(N, N)` float tensor.
        positives: `(N, N)` bool mask.
        negatives: `(N, N)` bool mask.
        eps: slack, at least 0.

    Returns:
        Two masks, subsets of `positives` and `negatives`. An anchor keeps
        some of the one exactly if it keeps some of the other.
    """
    hardest_positive = ops.min(ops.where(positives, similarities, float("inf")), axis=1, keepdims=True)
    hardest_negative = ops.max(ops.where(negatives, similarities, float("-inf")), axis=1, keepdims=True)
    return (
        ops.logical_and(positives, similarities < hardest_negative + eps),
        ops.logical_and(negatives, similarities > hardest_positive - eps),
    )


def wide_angles(d_ap, d_an, d_pn, angle: float):
    """Where `atan(|a - p| / (2 |n - c|))` is above `angle`, in degrees, with c midway between a and p.

    Args:
        d_ap: squared Euclidean distances, like the next two; any shapes that fit together.
        d_an: see above.
        d_pn: see above.
        angle: in (0, 90).
    """
    square = math.tan(math.radians(angle)) ** 2
    # 4 |n - c|^2 = 2 |a - n|^2 + 2 |p - n|^2 - |a - p|^2
    return d_ap * (1.0 + square) > 2.0 * square * (d_an + d_pn)
