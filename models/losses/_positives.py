"""Sums over (anchor, positive, any other item) in (batch, batch) memory, with exact gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from models.losses._pairs import Pairs
from models.losses._reduce import Reducer, class_factors, counted, name_of


class Slot(NamedTuple):
    """One positive of every anchor.

    Attributes:
        index: `(N,)` row number of the positive.
        value: `(N, 1)` entry of the matrix at the positive.
        present: `(N,)` bool; False where the anchor's class is too small.
        here: `(N, N)` zeros with a one at the positive, in the dtype of the matrix.
        back: function that moves the rows of an `(N, N)` tensor from the
            anchor to its positive and adds up what meets there.
    """

    index: Any
    value: Any
    present: Any
    here: Any
    back: Callable[[Any], Any]


def sum_over_positives(matrix, labels, measure, *, totals: int = 1, with_self: bool = False, positives=None):
    """Add up what `measure` finds for each anchor and each of its positives.

    Goes through the positives of all anchors side by side, first one of each, then the next: (largest class - 1)
    steps on (N, N) tensors. The loop runs outside the gradient. `measure` says beside each sum how it changes with
    every entry of the matrix, and `sum(weights * matrix)` hands that on.

    Args:
        matrix: `(N, N)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor.
        measure: function of `(slot, matrix)` giving a tuple of `totals`
            scalars and the `(N, N)` derivative of the first of them with
            respect to the matrix.
        totals: how many sums there are.
        with_self: count an item among its own positives.
        positives: `(N, M)` bool, which entries of an `(N, M)` matrix are the positives, where labels
            do not say it. A slot's `back` has no meaning unless the columns are the rows.

    Returns:
        Tuple of scalars; gradients flow through the first.
    """
    walk = PositivesWalk(matrix, labels, with_self, positives)

    def step(shift, weights, *sums):
        found, slopes = measure(walk.slot(shift), walk.fixed)
        return (shift + 1, weights + slopes, *(total + more for total, more in zip(sums, found, strict=True)))

    zero = ops.sum(walk.fixed) * 0.0
    weights, first, *others = walk.through(step, ops.zeros_like(walk.fixed), *[zero] * totals)
    carrier = ops.sum(ops.stop_gradient(weights) * matrix)
    return (ops.stop_gradient(first) + carrier - ops.stop_gradient(carrier), *others)


def reduce_over_positives(matrix, labels, measure, reducer: Reducer, positives=None):
    """One number out of the costs that come with each anchor and each of its positives.

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor of the anchors.
        measure: function of `(slot, matrix)` giving the costs, `(N,)` or `(N, M)`; a mask of
            those that count; and a function that makes the `(N, M)` derivative with respect to the matrix of
            `sum(weights * costs)` out of the weights.
        reducer: see `models.losses._reduce`; `"per_anchor"` goes through the positives twice.
        positives: as in `sum_over_positives`.
    """
    name, factors = name_of(reducer), None
    if name == "class_weighted":
        factors = class_factors(labels, reducer, matrix.dtype)
    if name == "per_anchor":
        factors = _shares_of_anchors(matrix, labels, measure, positives)

    def weigh(slot, fixed):
        costs, mask, derivative = measure(slot, fixed)
        weights = ops.cast(counted(costs, mask, reducer), costs.dtype)
        number = ops.sum(weights)
        if factors is not None:
            weights = weights * ops.reshape(factors, (-1,) + (1,) * (len(costs.shape) - 1))
        return (ops.sum(weights * costs), number), derivative(weights)

    total, number = sum_over_positives(matrix, labels, weigh, totals=2, positives=positives)
    return total if name in ("sum", "per_anchor") else total / ops.maximum(number, 1.0)


def rows_from_positives(slot: Slot, matrix, pairs: Pairs, measure):
    """What the matrix holds for the positive in place of the anchor, `(N, M)`; references count as constants.

    Args:
        slot: one positive of every anchor.
        matrix: `measure(pairs.rows, pairs.columns)`.
        pairs: what is compared with what.
        measure: function of two matrices of rows.
    """
    if pairs.columns is pairs.rows:
        return ops.take(matrix, slot.index, axis=0)
    columns = ops.stop_gradient(pairs.columns)
    return measure(ops.take(columns, slot.index, axis=0), columns)


def _shares_of_anchors(matrix, labels, measure, positives):
    """`(N,)` one over the number of costs of each anchor, and over the number of anchors."""
    walk = PositivesWalk(matrix, labels, False, positives)

    def step(shift, numbers):
        _, mask, _ = measure(walk.slot(shift), walk.fixed)
        mask = ops.cast(mask, numbers.dtype)
        return shift + 1, numbers + (ops.sum(mask, axis=1) if len(mask.shape) == 2 else mask)

    (numbers,) = walk.through(step, ops.zeros_like(walk.fixed[:, 0]))
    return 1.0 / (ops.maximum(numbers, 1.0) * ops.cast(ops.maximum(ops.shape(matrix)[0], 1), numbers.dtype))


class PositivesWalk:
    """The loop over the first, second, ... positive of every anchor, on a matrix without gradient.

    Takes the matrix, and the positives by labels or as a mask, as `sum_over_positives` does.
    """

    def __init__(self, matrix, labels=None, with_self=False, positives=None):
        self.fixed = ops.stop_gradient(matrix)
        self._columns = ops.arange(ops.shape(matrix)[1])
        self._by_class = positives is None
        self._members = ClassMembers(labels) if self._by_class else MaskMembers(positives)
        self._first = ops.cast(0 if with_self and self._by_class else 1, self._columns.dtype)

    def slot(self, shift) -> Slot:
        """The positives of turn `shift`."""
        index, present = self._members.partner(shift)
        return Slot(
            index=index,
            value=ops.take_along_axis(self.fixed, index[:, None], axis=1),
            present=present,
            here=ops.cast(self._columns[None, :] == index[:, None], self.fixed.dtype),
            back=lambda rows: self._back(rows, shift, index),
        )

    def through(self, step, *start):
        """Calls `step(shift, *state)`, which gives the next `shift` and state, for every turn; the last state."""
        return ops.while_loop(lambda shift, *_: shift < self._members.largest, step, (self._first, *start))[1:]

    def _back(self, rows, shift, index):
        if self._by_class:
            return ops.take(rows, self._members.partner(-shift)[0], axis=0)
        return ops.segment_sum(rows, index, num_segments=ops.shape(rows)[0])  # two anchors may share a positive


class ClassMembers:
    """Finds, for every item at once, the item some places on in its class, going round.

    Args:
        labels: `(N,)` integer tensor.

    Attributes:
        size: `(N,)` number of items of the item's class.
        place: `(N,)` how many rows of the class stand before the item.
        largest: scalar, size of the largest class.
    """

    def __init__(self, labels):
        labels = ops.convert_to_tensor(labels)
        columns = ops.arange(ops.shape(labels)[0])

        def count(mask):
            return ops.sum(ops.cast(mask, columns.dtype), axis=1)

        same = labels[None, :] == labels[:, None]
        self._first = count(labels[None, :] < labels[:, None])
        self.place = count(ops.logical_and(same, columns[None, :] < columns[:, None]))
        self._order = ops.argsort(self._first + self.place)
        self.size = count(same)
        self.largest = ops.max(self.size)

    def partner(self, shift):
        """Row number `(N,)` of the item `shift` places on, and whether the class has more than `shift` items."""
        place = ops.mod(self.place + shift, self.size)
        return ops.take(self._order, self._first + place, axis=0), shift < self.size


class MaskMembers:
    """Finds, for every row at once, the column of its first, second, ... true entry.

    Args:
        mask: `(N, M)` bool.

    Attributes:
        largest: scalar, one more than the most true entries in a row.
    """

    def __init__(self, mask):
        self._rank = ops.where(mask, ops.cumsum(ops.cast(mask, "int32"), axis=1), 0)
        self.largest = ops.max(self._rank) + 1

    def partner(self, shift):
        """Column `(N,)` of the true entry number `shift`, counted from 1, and whether there is one."""
        here = self._rank == ops.cast(shift, "int32")
        return ops.argmax(ops.cast(here, "int32"), axis=1), ops.any(here, axis=1)
