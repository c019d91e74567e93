"""Sums over (anchor, positive, any other item) in (batch, batch) memory, with exact gradients."""

from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import keras
from keras import ops

from models.losses._pairs import Pairs
from models.losses._reduce import Reducer, class_factors, counted, name_of

_ROWS_AT_ONCE = 64  # anchors whose (64, N) tensors stay in the processor's cache between one operation and the next


class Slot(NamedTuple):
    """One positive of each of B anchors.

    Attributes:
        index: `(B,)` row number of the positive.
        value: `(B, 1)` entry of the matrix at the positive.
        present: `(B,)` bool; False where the anchor's class is too small.
        here: `(B, N)` zeros with a one at the positive, in the dtype of the matrix.
        take: function that leaves of an `(N, ...)` tensor the rows of these anchors.
        back: function that moves the rows of an `(N, N)` tensor from the
            anchor to its positive and adds up what meets there; only where B is N.
        ones: `(N,)` ones in the dtype of the matrix.
    """

    index: Any
    value: Any
    present: Any
    here: Any
    take: Callable[[Any], Any]
    back: Callable[[Any], Any]
    ones: Any

    def add_up(self, rows):
        """Sums of the rows of a `(B, N)` tensor, `(B,)`: as a product, for XLA adds numbers in a row one by one."""
        return ops.matmul(rows, self.ones)


def sum_over_positives(
    matrix,
    labels,
    measure,
    *,
    totals: int = 1,
    with_self: bool = False,
    positives=None,
    others=None,
    whole: bool = False,
    linear: bool = False,
):
    """Add up what `measure` finds for each anchor and each of its positives.

    Goes through the anchors by blocks, and in a block through the positives of its anchors side by side, first one of
    each, then the next: (largest class - 1) steps on (B, N) tensors. The loops run outside the gradient. `measure`
    says beside each sum how it changes with every entry of the matrix, and `sum(weights * matrix)` hands that on.

    Args:
        matrix: `(N, N)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor.
        measure: function of `(slot, rows)`, the rows of the matrix (or of `others`) of B anchors, giving a tuple of
            `totals` scalars and the `(B, N)` derivative of the first of them with respect to the rows of the matrix.
        totals: how many sums there are.
        with_self: count an item among its own positives.
        positives: `(N, M)` bool, which entries of an `(N, M)` matrix are the positives, where labels
            do not say it. A slot's `back` has no meaning unless the columns are the rows.
        others: `(N, M)` what `measure` gets to see in place of the matrix, such as the matrix with infinity where
            nothing counts: made once, it spares a mask in every turn.
        whole: take all anchors as one block, for a `measure` that needs `slot.back`.
        linear: the first total is what `measure` finds plus `sum(derivative * matrix)`, at least 0: for costs that are
            straight lines in the matrix, whose own sum would be one more walk through them.

    Returns:
        Tuple of scalars; gradients flow through the first.
    """
    walk = PositivesWalk(matrix, labels, with_self, positives, others)
    zero = ops.sum(walk.fixed[:0])

    def sum_rows(numbers):
        anchors = walk.at(numbers)

        def step(shift, weights, *sums):
            found, slopes = measure(anchors.slot(shift), anchors.rows)
            return (shift + 1, weights + slopes, *(total + more for total, more in zip(sums, found, strict=True)))

        return walk.through(step, ops.zeros_like(anchors.fixed), *[zero] * totals)

    if whole:
        weights, *sums = sum_rows(None)
    else:
        weights, *sums = ops.map(sum_rows, walk.blocks())
        weights = ops.reshape(weights, (-1, ops.shape(matrix)[1]))[: ops.shape(matrix)[0]]
        sums = [ops.sum(total) for total in sums]
    carrier = ops.sum(ops.stop_gradient(weights) * matrix)
    held = ops.stop_gradient(carrier)
    first = ops.relu(sums[0] + held) if linear else sums[0]
    return (ops.stop_gradient(first) + carrier - held, *sums[1:])


def reduce_over_positives(
    matrix, labels, measure, reducer: Reducer, *, positives=None, others=None, whole: bool = False
):
    """One number out of the costs that come with each anchor and each of its positives.

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor of the anchors.
        measure: function of `(slot, rows)` giving the costs, `(B,)` or `(B, M)`; a mask of
            those that count; and a function that makes the `(B, M)` derivative with respect to the rows of
            `sum(weights * costs)` out of the weights.
        reducer: see `models.losses._reduce`; `"per_anchor"` goes through the positives twice.
        positives: as in `sum_over_positives`.
        others: as there.
        whole: as there.
    """
    name, factors = name_of(reducer), None
    if name == "class_weighted":
        factors = class_factors(labels, reducer, matrix.dtype)
    if name == "per_anchor":
        factors = _shares_of_anchors(PositivesWalk(matrix, labels, False, positives, others), measure)

    def weigh(slot, fixed):
        costs, mask, derivative = measure(slot, fixed)
        add_up = slot.add_up if len(costs.shape) == 2 else lambda x: x
        weights = ops.cast(counted(costs, mask, reducer), costs.dtype)
        number = ops.sum(add_up(weights))
        if factors is not None:
            weights = weights * ops.reshape(slot.take(factors), (-1,) + (1,) * (len(costs.shape) - 1))
        return (ops.sum(add_up(weights * costs)), number), derivative(weights)

    where = {"positives": positives, "others": others, "whole": whole}
    total, number = sum_over_positives(matrix, labels, weigh, totals=2, **where)
    return total if name in ("sum", "per_anchor") else total / ops.maximum(number, 1.0)


def mean_of_hinges(matrix, labels, negatives, margin: float, positives=None):
    """Mean of the hinges `margin + value - entry` above 0, over each anchor, its positives and its negatives.

    What `reduce_over_positives` makes of them with `"avg_non_zero"`, in two thirds of the time.

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor of the anchors.
        negatives: `(N, M)` bool.
        margin: at least 0.
        positives: as in `sum_over_positives`.
    """

    def measure(slot, rows):
        # One comparison with what was made before the loop: XLA does it again where it is needed and stores nothing.
        limit = ops.where(slot.present[:, None], slot.value + margin, float("-inf"))
        weights = ops.cast(rows < limit, rows.dtype)
        number = slot.add_up(weights)
        return (margin * ops.sum(number), ops.sum(number)), slot.here * number[:, None] - weights

    others = ops.where(negatives, ops.stop_gradient(matrix), float("inf"))
    total, number = sum_over_positives(
        matrix, labels, measure, totals=2, positives=positives, others=others, linear=True
    )
    return total / ops.maximum(number, 1.0)


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


def _shares_of_anchors(walk, measure):
    """`(N,)` one over the number of costs of each anchor, and over the number of anchors."""

    def step(shift, numbers):
        _, mask, _ = measure(walk.slot(shift), walk.rows)
        mask = ops.cast(mask, numbers.dtype)
        return shift + 1, numbers + (ops.sum(mask, axis=1) if len(mask.shape) == 2 else mask)

    (numbers,) = walk.through(step, ops.zeros_like(walk.fixed[:, 0]))
    return 1.0 / (ops.maximum(numbers, 1.0) * ops.cast(ops.maximum(ops.shape(walk.fixed)[0], 1), numbers.dtype))


class PositivesWalk:
    """The loop over the first, second, ... positive of every anchor, on a matrix without gradient.

    Takes the matrix, the positives by labels or as a mask, and the others, as `sum_over_positives` does.
    """

    def __init__(self, matrix, labels=None, with_self=False, positives=None, others=None):
        self.fixed = ops.stop_gradient(matrix)
        self.rows = self.fixed if others is None else ops.stop_gradient(others)
        self._columns = ops.arange(ops.shape(matrix)[1])
        self._ones = ops.ones_like(self._columns, dtype=self.fixed.dtype)
        self._by_class = positives is None
        self._members = ClassMembers(labels) if self._by_class else MaskMembers(positives)
        self._first = ops.cast(0 if with_self and self._by_class else 1, self._columns.dtype)
        self._numbers: Any = None
        self._real: Any = None

    def blocks(self):
        """Row numbers of the anchors, `(blocks, B)`; those that fill the last block up lie beyond the rows."""
        rows = ops.shape(self.fixed)[0]
        if _is_symbol(rows):
            return ops.arange(rows)[None, :]
        # A known size stays a Python number: under JAX's jit nothing else can be a shape.
        size = min(rows, _ROWS_AT_ONCE) if isinstance(rows, int) else ops.minimum(rows, _ROWS_AT_ONCE)
        return ops.reshape(ops.arange((rows + size - 1) // size * size), (-1, size))

    def at(self, numbers):
        """The same walk for some anchors only, by row numbers as `blocks` gives them; None for all."""
        if numbers is None:
            return self
        part = copy(self)
        part._numbers = ops.minimum(numbers, ops.shape(self.fixed)[0] - 1)
        part._real = part._numbers == numbers
        part.fixed = part._take(self.fixed)
        part.rows = part.fixed if self.rows is self.fixed else part._take(self.rows)
        return part

    def slot(self, shift) -> Slot:
        """The positives of turn `shift`."""
        index, present = self._members.partner(shift, self._take)
        return Slot(
            index=index,
            value=ops.take_along_axis(self.fixed, index[:, None], axis=1),
            present=present if self._numbers is None else ops.logical_and(present, self._real),
            here=ops.cast(self._columns[None, :] == index[:, None], self.fixed.dtype),
            take=self._take,
            back=lambda rows: self._back(rows, shift, index),
            ones=self._ones,
        )

    def through(self, step, *start):
        """Calls `step(shift, *state)`, which gives the next `shift` and state, for every turn; the last state."""
        return ops.while_loop(lambda shift, *_: shift < self._members.largest, step, (self._first, *start))[1:]

    def _take(self, x):
        return x if self._numbers is None else ops.take(x, self._numbers, axis=0)

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
        self._order = ops.cast(ops.argsort(labels), "int32")
        first, behind = _places_of_classes(labels, ops.take(labels, self._order, axis=0))
        self._first = first
        self.size = behind - first
        self.place = ops.cast(ops.argsort(self._order), "int32") - first
        self.largest = ops.max(self.size)

    def partner(self, shift, take=lambda x: x):
        """Row number of the item `shift` places on, and whether the class has more than `shift` items.

        Args:
            shift: scalar.
            take: leaves the items asked for of an `(N,)` tensor; all of them if left out.
        """
        size = take(self.size)
        place = ops.mod(take(self.place) + shift, size)
        return ops.take(self._order, take(self._first) + place, axis=0), shift < size


def _is_symbol(size) -> bool:
    """Whether a batch size is the symbol by which JAX asks for shapes alone."""
    return keras.backend.backend() == "jax" and size is not None and not isinstance(size, int)


def _places_of_classes(labels, ordered):
    """Where the class of each item begins and ends among the `(N,)` ordered labels, two `(N,)` int32 tensors."""
    if _is_symbol(labels.shape[0]):  # then it cannot be searched by
        smaller = ops.sum(ops.cast(labels[None, :] < labels[:, None], "int32"), axis=1)
        return smaller, smaller + ops.sum(ops.cast(labels[None, :] == labels[:, None], "int32"), axis=1)
    # For a batch of unknown size some backends count in int64.
    return tuple(ops.cast(ops.searchsorted(ordered, labels, side=side), "int32") for side in ("left", "right"))


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

    def partner(self, shift, take=lambda x: x):
        """Column of the true entry number `shift`, counted from 1, and whether there is one; `take` as above."""
        here = take(self._rank) == ops.cast(shift, "int32")
        return ops.argmax(ops.cast(here, "int32"), axis=1), ops.any(here, axis=1)
