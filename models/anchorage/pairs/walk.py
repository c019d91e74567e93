"""Loops over all (anchor, positive) pairs of a batch, a block of anchors and a few positives at a time."""

from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import keras
from keras import ops

_PAIRS_AT_ONCE = 32  # tensors of so many rows stay in the processor's cache between one operation and the next
_PARTS = 16
MOST_SOFT = 80.0 / _PARTS  # the product of so many exponentials stays within float32


class PositiveBlock(NamedTuple):
    """The (anchor, positive) pairs that one step of the loop handles: P pairs, those of an anchor next to each other.

    Attributes:
        index: `(P,)` row number of the positive.
        value: `(P, 1)` entry of the matrix at (anchor, positive).
        present: `(P,)` bool; False where the anchor has no further positive and the pair is padding.
        one_hot: `(P, N)` one at the column of the positive, zero elsewhere, in the dtype of the matrix.
        take: function that gathers the anchors' rows of an `(N, ...)` tensor, one for each pair.
        scatter_to_positive: function that adds the rows of an `(N, N)` tensor up at the rows of the positives in
            place of the anchors; only where P is N.
    """

    index: Any
    value: Any
    present: Any
    one_hot: Any
    take: Callable[[Any], Any]
    scatter_to_positive: Callable[[Any], Any]


class PositivesWalk:
    """Loops over the first, second, ... positive of every anchor; no gradient flows through the loop.

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor, or None where there is a mask.
        with_self: count an item among its own positives.
        positives: `(N, M)` bool, which entries are the positives, where labels do not say it.
        others: tuple of `(N, M)` tensors whose rows are taken in place of the matrix's; None for the matrix itself.
    """

    def __init__(self, matrix, labels=None, with_self=False, positives=None, others=None):
        self.fixed = ops.stop_gradient(matrix)
        self.rows = tuple(ops.stop_gradient(x) for x in others or (matrix,))
        self._columns = ops.arange(ops.shape(matrix)[1])
        self._by_class = positives is None
        self._members = ClassMembers(labels) if self._by_class else MaskMembers(positives)
        self._first = ops.cast(0 if with_self and self._by_class else 1, self._columns.dtype)
        self._numbers: Any = None
        self._real: Any = None

    def blocks(self, positives_per_step: int = 1):
        """Splits the anchors into blocks: row numbers `(blocks, B)`; padding in the last block lies beyond the rows.

        Args:
            positives_per_step: how many positives of an anchor one step handles.
        """
        rows = ops.shape(self.fixed)[0]
        if _is_symbol(rows):
            return ops.arange(rows)[None, :]
        # A known size stays a Python number: under JAX's jit nothing else can be a shape.
        most = _PAIRS_AT_ONCE // positives_per_step
        size = min(rows, most) if isinstance(rows, int) else ops.minimum(rows, most)
        return ops.reshape(ops.arange((rows + size - 1) // size * size), (-1, size))

    def at(self, numbers):
        """Restricts the walk to some anchors, by row numbers as `blocks` gives them; None for all."""
        if numbers is None:
            return self
        part = copy(self)
        part._numbers = ops.minimum(numbers, ops.shape(self.fixed)[0] - 1)
        part._real = part._numbers == numbers
        part.fixed = part._take(self.fixed)
        part.rows = tuple(part._take(x) for x in self.rows)
        return part

    def positive_block(self, shift, positives_per_step: int = 1) -> PositiveBlock:
        """Gathers the next `positives_per_step` positives of every anchor, from number `shift` on."""
        partners = [self._members.partner(shift + later, self._take) for later in range(positives_per_step)]
        index, present = (ops.stack(parts, axis=1) for parts in zip(*partners, strict=True))
        if self._numbers is not None:
            present = ops.logical_and(present, self._real[:, None])
        value = ops.take_along_axis(self.fixed, index, axis=1)
        index, present = ops.reshape(index, (-1,)), ops.reshape(present, (-1,))
        return PositiveBlock(
            index=index,
            value=ops.reshape(value, (-1, 1)),
            present=present,
            one_hot=ops.cast(self._columns[None, :] == index[:, None], self.fixed.dtype),
            take=lambda x: repeat_rows(self._take(x), positives_per_step),
            scatter_to_positive=lambda rows: self._scatter_to_positive(rows, shift, index),
        )

    def through(self, step, *start):
        """Repeats `step(shift, *state)`, which returns the next `shift` and state, until no positives are left."""
        return ops.while_loop(lambda shift, *_: shift < self._members.largest, step, (self._first, *start))[1:]

    def _take(self, x):
        return x if self._numbers is None else ops.take(x, self._numbers, axis=0)

    def _scatter_to_positive(self, rows, shift, index):
        if self._by_class:
            return ops.take(rows, self._members.partner(-shift)[0], axis=0)
        return ops.segment_sum(rows, index, num_segments=ops.shape(rows)[0])  # two anchors may share a positive


def _in_parts(rows):
    """`(P, N)` rows as `(P, parts, N / parts)`, where the number of columns is known and can be divided."""
    size = rows.shape[1]
    parts = max(part for part in range(1, _PARTS + 1) if size % part == 0) if isinstance(size, int) and size else 1
    return ops.reshape(rows, (-1, parts, size // parts)) if parts > 1 else rows[:, None, :]


def sum_rows(rows):
    """Sums of the rows of a `(P, N)` tensor: `(P,)`.

    XLA adds numbers that lie side by side one by one, but parts of a row one on the other many at a time.
    """
    parts = ops.sum(_in_parts(rows), axis=1)
    return ops.matmul(parts, ops.ones_like(parts[0]))


def sum_logs_of_rows(rows):
    """Sums of the logarithms of the rows of a `(P, N)` tensor, at least 1 and at most `exp(MOST_SOFT)`: `(P,)`."""
    parts = ops.log(ops.prod(_in_parts(rows), axis=1))
    return ops.matmul(parts, ops.ones_like(parts[0]))


def min_of_rows(rows):
    """Least entries of the rows of a `(P, N)` tensor: `(P,)`."""
    return ops.min(ops.min(_in_parts(rows), axis=1), axis=1)


def repeat_rows(x, positives_per_step: int):
    """Repeats every row of an `(N, ...)` tensor `positives_per_step` times, copies next to each other."""
    if positives_per_step == 1:
        return x
    shape = ops.shape(x)
    return ops.reshape(ops.broadcast_to(x[:, None], (shape[0], positives_per_step, *shape[1:])), (-1, *shape[1:]))


class ClassMembers:
    """For every item at once, finds the item a number of places further in its class, cyclically.

    Args:
        labels: `(N,)` integer tensor.

    Attributes:
        size: `(N,)` number of items of the item's class.
        place: `(N,)` number of rows of the class before the item.
        largest: scalar, size of the largest class.
    """

    def __init__(self, labels):
        labels = ops.convert_to_tensor(labels)
        self._order = ops.cast(ops.argsort(labels), "int32")
        place = ops.cast(ops.argsort(self._order), "int32")
        self._first, self.size = _runs(ops.take(labels, self._order, axis=0), place)
        self.place = place - self._first
        self.largest = ops.max(self.size)

    def first(self, count: int):
        """Row numbers of the first items of each item's class, `(N, count)`, and which of them there are."""
        places = ops.arange(count, dtype="int32")[None, :]
        present = places < self.size[:, None]
        return ops.take(self._order, self._first[:, None] + ops.where(present, places, 0), axis=0), present

    def partner(self, shift, take=lambda x: x):
        """Row number of the item `shift` places on, and whether the class has more than `shift` items.

        Args:
            shift: scalar.
            take: selects items of an `(N,)` tensor; all by default.
        """
        size = take(self.size)
        place = ops.mod(take(self.place) + shift, size)
        return ops.take(self._order, take(self._first) + place, axis=0), shift < size


def _is_symbol(size) -> bool:
    """Whether a batch size is the symbol by which JAX asks for shapes alone."""
    return keras.backend.backend() == "jax" and size is not None and not isinstance(size, int)


def _runs(ordered, place):
    """First position of the class of each item among the `(N,)` ordered labels, and its size, by `place`."""
    rows = ops.shape(ordered)[0]
    if _is_symbol(rows):  # then nothing can be of that size
        start = ops.sum(ops.cast(ordered[None, :] < ordered[:, None], "int32"), axis=1)
        size = ops.sum(ops.cast(ordered[None, :] == ordered[:, None], "int32"), axis=1)
        return ops.take(start, place, axis=0), ops.take(size, place, axis=0)
    new = ops.concatenate([ops.ones_like(ordered[:1], dtype="int32"), ops.cast(ordered[1:] != ordered[:-1], "int32")])
    run = ops.cast(ops.cumsum(new), "int32") - 1
    sizes = ops.segment_sum(ops.ones_like(run), run, num_segments=rows)
    starts = ops.cast(ops.cumsum(sizes), "int32") - sizes
    run = ops.take(run, place, axis=0)
    return ops.take(starts, run, axis=0), ops.take(sizes, run, axis=0)


class MaskMembers:
    """For every row at once, finds the column of its first, second, ... true entry.

    Args:
        mask: `(N, M)` bool.

    Attributes:
        largest: scalar, one more than the most true entries in a row.
    """

    def __init__(self, mask):
        self._rank = ops.where(mask, ops.cumsum(ops.cast(mask, "int32"), axis=1), 0)
        self.largest = ops.max(self._rank) + 1

    def partner(self, shift, take=lambda x: x):
        """Column of the true entry number `shift`, counted from 1, and whether there is one; `take` as above."""
        match = take(self._rank) == ops.cast(shift, "int32")
        return ops.argmax(ops.cast(match, "int32"), axis=1), ops.any(match, axis=1)
