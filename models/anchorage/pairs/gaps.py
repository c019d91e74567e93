"""Soft histogram of triplet gaps (distance to the positive minus distance to the negative), and its lookup."""

import math

from keras import ops

from anchorage.pairs.histogram import soft_histogram
from anchorage.pairs.walk import sum_rows

_FEW = 16
_FAR = 1e9  # bin widths


class GapNodes:
    """Histogram nodes `0, 1, ..., intervals`, for the gaps between positives and all negatives of their anchors.

    Distances and gaps are in bin widths; a gap outside the nodes is clipped to the nearest end. As no distance is above
    `span`, the gaps of one positive cover at most `span + 1` nodes. If these are few, each node is compared with all
    gaps, which XLA vectorizes; else each gap is looked up.

    Args:
        intervals: number of bins, at least 1.
        span: largest distance, in bin widths.
    """

    def __init__(self, intervals: int, span: float):
        self.intervals = intervals
        self._span = span
        self._slides = math.ceil(span) < intervals  # else the nodes in reach are all nodes
        self._reach = min(math.ceil(span), intervals) + 1

    def prepare(self, distances, negatives):
        """Makes the rows that `count` and `read` take: `(N, N)` distances, very large where there is no negative."""
        return ops.where(negatives, distances, _FAR)

    def count(self, block, value, rows, number):
        """Histogram of the gaps; each is shared linearly between the two nodes around it.

        Args:
            block: P pairs of anchor and positive.
            value: `(P, 1)`; gaps are `value - rows`.
            rows: `(P, N)` from `prepare`.
            number: `(P,)` number of negatives of each anchor.

        Returns:
            `(intervals + 1,)` float tensor.
        """
        present = ops.cast(block.present, rows.dtype)[:, None]
        if self._reach > _FEW:
            return soft_histogram(value - rows, present * ops.cast(rows < _FAR, rows.dtype), self.intervals)[0]
        edges, nodes = self._window(value)
        # Sum of max(0, edge - distance), from the sum of the smaller of both: one operation less per entry.
        width = ops.cast(ops.shape(rows)[1], rows.dtype)
        below = [sum_rows(ops.minimum(edges[:, i : i + 1], rows)) for i in range(self._reach)]
        excess = width * edges - ops.stack(below, axis=1)
        above = ops.concatenate([number[:, None], -_differences(excess)], axis=1)
        shares = present * -_differences(above)  # on a node = on it or above, less above
        nodes = ops.concatenate([nodes, ops.minimum(nodes[:, -1:] + 1, self.intervals)], axis=1)
        return ops.segment_sum(ops.reshape(shares, (-1,)), ops.reshape(nodes, (-1,)), num_segments=self.intervals + 1)

    def read(self, block, value, rows, table):
        """Entries of an `(intervals + 1,)` table at the node at or below each gap: `(P, N)`, 0 for other entries."""
        present = ops.cast(block.present, rows.dtype)[:, None]
        if self._reach > _FEW:
            nodes = ops.cast(ops.clip(ops.floor(value - rows), 0, self.intervals), "int32")
            return ops.where(rows < _FAR, present * ops.take(table, nodes, axis=0), 0.0)
        edges, nodes = self._window(value)
        entries = present * ops.take(table, nodes, axis=0)
        values = ops.where(rows < _FAR, entries[:, :1], 0.0)
        for i in range(1, self._reach):
            values = values + ops.where(rows <= edges[:, i : i + 1], entries[:, i : i + 1] - entries[:, i - 1 : i], 0.0)
        return values

    def _window(self, value):
        """The nodes that the gaps of each positive can reach, and the distance whose gap is each node: `(P, reach)`."""
        first = ops.floor(value - self._span) if self._slides else ops.zeros_like(value)
        nodes = first + ops.arange(self._reach, dtype=value.dtype)
        return value - nodes, ops.cast(ops.clip(nodes, 0, self.intervals), "int32")


def _differences(columns):
    """Differences of neighboring columns of a `(P, K)` tensor, with zeros after the last column."""
    return ops.concatenate([columns[:, 1:], ops.zeros_like(columns[:, :1])], axis=1) - columns
