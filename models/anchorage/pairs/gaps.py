"""Nodes on the axis of gaps, positive minus negative: how many gaps lie near each, and what is told at a gap's own."""

import math

from keras import ops

from anchorage.pairs.histogram import soft_histogram
from anchorage.pairs.walk import sum_rows

_FEW = 16
_FAR = 1e9  # intervals


class GapNodes:
    """Nodes on the axis and the gaps between some positives and all negatives of their anchors.

    Everything is in intervals between nodes, and node j lies at j; a gap outside of the nodes counts as the nearest
    end. Since no distance is above `span`, the gaps of one positive reach `span + 1` nodes at the most. Where these
    are few every one is compared with all gaps, which XLA vectorises; else each gap is looked up.

    Args:
        intervals: between nodes, at least 1.
        span: largest distance.
    """

    def __init__(self, intervals: int, span: float):
        self.intervals = intervals
        self._span = span
        self._slides = math.ceil(span) < intervals  # else the nodes in reach are all nodes
        self._reach = min(math.ceil(span), intervals) + 1

    def prepare(self, distances, negatives):
        """`(N, N)` distances as the two questions below want them: those of other items than negatives far away."""
        return ops.where(negatives, distances, _FAR)

    def count(self, block, value, rows, number):
        """Share every gap out to the nodes on both sides of it, in proportion to nearness.

        Args:
            block: P pairs of anchor and positive.
            value: `(P, 1)`; gaps are `value - rows`.
            rows: `(P, N)` from `prepare`.
            number: `(P,)` how many negatives each has.

        Returns:
            `(intervals + 1,)` float tensor.
        """
        present = ops.cast(block.present, rows.dtype)[:, None]
        if self._reach > _FEW:
            return soft_histogram(value - rows, present * ops.cast(rows < _FAR, rows.dtype), self.intervals)[0]
        edges, nodes = self._window(value)
        # By how much the edges exceed what lies below: the smaller of both added up, an operation less an entry.
        width = ops.cast(ops.shape(rows)[1], rows.dtype)
        below = [sum_rows(ops.minimum(edges[:, i : i + 1], rows)) for i in range(self._reach)]
        excess = width * edges - ops.stack(below, axis=1)
        above = ops.concatenate([number[:, None], -_differences(excess)], axis=1)
        shares = present * -_differences(above)  # what lies on a node is what lies on it or above, less what is above
        nodes = ops.concatenate([nodes, ops.minimum(nodes[:, -1:] + 1, self.intervals)], axis=1)
        return ops.segment_sum(ops.reshape(shares, (-1,)), ops.reshape(nodes, (-1,)), num_segments=self.intervals + 1)

    def read(self, block, value, rows, table):
        """What the `(intervals + 1,)` table says at the node at or below each gap, `(P, N)`; 0 if it does not count."""
        present = ops.cast(block.present, rows.dtype)[:, None]
        if self._reach > _FEW:
            nodes = ops.cast(ops.clip(ops.floor(value - rows), 0, self.intervals), "int32")
            return ops.where(rows < _FAR, present * ops.take(table, nodes, axis=0), 0.0)
        edges, nodes = self._window(value)
        told = present * ops.take(table, nodes, axis=0)
        found = ops.where(rows < _FAR, told[:, :1], 0.0)
        for i in range(1, self._reach):
            found = found + ops.where(rows <= edges[:, i : i + 1], told[:, i : i + 1] - told[:, i - 1 : i], 0.0)
        return found

    def _window(self, value):
        """The nodes that gaps of each positive reach, and the distance at which the gap is on each: `(P, reach)`."""
        first = ops.floor(value - self._span) if self._slides else ops.zeros_like(value)
        nodes = first + ops.arange(self._reach, dtype=value.dtype)
        return value - nodes, ops.cast(ops.clip(nodes, 0, self.intervals), "int32")


def _differences(columns):
    """Each column of a `(P, K)` tensor less the one before; after the last comes 0."""
    return ops.concatenate([columns[:, 1:], ops.zeros_like(columns[:, :1])], axis=1) - columns
