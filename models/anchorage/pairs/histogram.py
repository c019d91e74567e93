"""Histograms with triangular bins: each value is shared linearly between the two nodes around it."""

from keras import ops


def soft_histogram(position, weights, intervals: int, group=0, groups=1):
    """Differentiable histogram; each entry is shared linearly between the two nodes around it.

    Args:
        position: `(N, M)` float tensor, position among the nodes
            `0, 1, ..., intervals`; values outside are clipped.
        weights: `(N, M)` float tensor, weight of each entry.
        intervals: number of bins, at least 1.
        group: `(N, M)` int32 tensor, or a number: which histogram the entry belongs to.
        groups: number of histograms.

    Returns:
        `(groups, intervals + 1)` float tensor. Its gradient reaches `position` and `weights`.
    """
    position = ops.clip(position, 0.0, float(intervals))
    low = ops.stop_gradient(ops.minimum(ops.floor(position), float(intervals - 1)))
    upper = weights * (position - low)
    nodes = ops.cast(low, "int32") + group * (intervals + 1)
    nodes = ops.reshape(nodes, (-1,))
    total = groups * (intervals + 1)
    below = ops.segment_sum(ops.reshape(weights - upper, (-1,)), nodes, num_segments=total)
    above = ops.segment_sum(ops.reshape(upper, (-1,)), nodes + 1, num_segments=total)
    return ops.reshape(below + above, (groups, intervals + 1))
