"""Mining rules shared by miners and losses."""

import math

from keras import ops


def mine_pairs(similarities, positives, negatives, eps: float):
    """Select the hard pairs of the multi-similarity loss (equations 11 and 12).

    A positive is kept if `s_ap < max_n s_an + eps`, a negative if `s_an > min_p s_ap - eps`.

    Args:
        similarities: `(N, M)` float tensor.
        positives: `(N, M)` bool mask.
        negatives: `(N, M)` bool mask.
        eps: tolerance, at least 0.

    Returns:
        Two masks, subsets of `positives` and `negatives`. An anchor keeps positives if and only if it keeps negatives.
    """
    hardest_positive = ops.min(ops.where(positives, similarities, float("inf")), axis=1, keepdims=True)
    hardest_negative = ops.max(ops.where(negatives, similarities, float("-inf")), axis=1, keepdims=True)
    return (
        ops.logical_and(positives, similarities < hardest_negative + eps),
        ops.logical_and(negatives, similarities > hardest_positive - eps),
    )


def wide_angles(d_ap, d_an, d_pn, angle: float):
    """Mask of triplets with `atan(|a - p| / (2 |n - c|)) > angle`, where c is the midpoint of a and p.

    Args:
        d_ap: squared Euclidean distances of anchors and positives.
        d_an: those of anchors and negatives.
        d_pn: those of positives and negatives; the three shapes broadcast.
        angle: in degrees, in (0, 90).
    """
    squared_tangent = math.tan(math.radians(angle)) ** 2
    # 4 |n - c|^2 = 2 |a - n|^2 + 2 |p - n|^2 - |a - p|^2
    return d_ap * (1.0 + squared_tangent) > 2.0 * squared_tangent * (d_an + d_pn)
