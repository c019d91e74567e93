"""Sums over (anchor, positive, any other item) in (batch, batch) memory, with exact gradients."""

from keras import ops

from anchorage.pairs.reducers import Reducer, class_factors, counted, name_of
from anchorage.pairs.references import Pairs
from anchorage.pairs.walk import PositivesWalk, Slot, repeat_rows

TURNS_AT_ONCE = 2  # positives of each anchor; more would be too many where classes are small


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
    signed: bool = False,
):
    """Add up what `measure` finds for each anchor and each of its positives.

    Goes through the anchors by blocks, and in a block through the positives of its anchors side by side, first two of
    each, then the next: (largest class - 1) / 2 steps on (P, N) tensors. The loops run outside the gradient. `measure`
    says beside each sum how it changes with every entry of the matrix, and `sum(weights * matrix)` hands that on.
    What it computes should be plain arithmetic and comparisons: XLA vectorises little that reads or writes booleans.

    Args:
        matrix: `(N, N)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor.
        measure: function of `(slot, rows)`, the rows of the matrix for P pairs, (or of `(slot, *rows)`, those of each
            of `others`), giving a tuple of `totals` scalars and the `(P, N)` derivative of the first of them with
            respect to the rows of the matrix.
        totals: how many sums there are.
        with_self: count an item among its own positives.
        positives: `(N, M)` bool, which entries of an `(N, M)` matrix are the positives, where labels
            do not say it. A slot's `back` has no meaning unless the columns are the rows.
        others: tuple of `(N, M)` tensors that `measure` gets to see in place of the matrix, such as the matrix with
            infinity where nothing counts: made once, it spares a mask in every turn.
        whole: take all anchors as one block, for a `measure` that needs `slot.back`.
        linear: the first total is what `measure` finds plus `sum(derivative * matrix)`: for costs that are straight
            lines in the matrix, whose own sum would be one more walk through them.
        signed: whether a linear total may lie below 0, where else only rounding can take it.

    Returns:
        Tuple of scalars; gradients flow through the first.
    """
    walk = PositivesWalk(matrix, labels, with_self, positives, others)
    zero = ops.sum(walk.fixed[:0])
    turns = 1 if whole else TURNS_AT_ONCE

    def sum_rows(numbers):
        anchors = walk.at(numbers)
        rows = tuple(repeat_rows(x, turns) for x in anchors.rows)

        def step(shift, weights, *sums):
            found, slopes = measure(anchors.slot(shift, turns), *rows)
            slopes = ops.reshape(slopes, (-1, turns, slopes.shape[1] or ops.shape(slopes)[1]))
            # Within the sum: XLA does not vectorise what adds to a tensor in its place.
            weights = ops.sum(slopes + weights[:, None, :] * (1.0 / turns), axis=1)
            return (shift + turns, weights, *(total + more for total, more in zip(sums, found, strict=True)))

        return walk.through(step, ops.zeros_like(anchors.fixed), *[zero] * totals)

    if whole:
        weights, *sums = sum_rows(None)
    else:
        weights, *sums = ops.map(sum_rows, walk.blocks(turns))
        weights = ops.reshape(weights, (-1, ops.shape(matrix)[1]))[: ops.shape(matrix)[0]]
        sums = [ops.sum(total) for total in sums]
    carrier = ops.sum(ops.stop_gradient(weights) * matrix)
    held = ops.stop_gradient(carrier)
    first = sums[0] + held if linear else sums[0]
    if linear and not signed:
        first = ops.relu(first)
    return (ops.stop_gradient(first) + carrier - held, *sums[1:])


def reduce_over_positives(
    matrix, labels, measure, reducer: Reducer, *, positives=None, others=None, whole: bool = False
):
    """One number out of the costs that come with each anchor and each of its positives.

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor of the anchors.
        measure: function of `(slot, rows)` giving the costs, `(P,)`, or `(P, C)` for C others; a mask of
            those that count; and a function that makes the `(P, M)` derivative with respect to the rows of
            `sum(weights * costs)` out of the weights.
        reducer: see `anchorage.pairs.reducers`; `"per_anchor"` goes through the positives twice.
        positives: as in `sum_over_positives`.
        others: as there.
        whole: as there.
    """
    name, factors = name_of(reducer), None
    if name == "class_weighted":
        factors = class_factors(labels, reducer, matrix.dtype)
    if name == "per_anchor":
        factors = _shares_of_anchors(PositivesWalk(matrix, labels, False, positives, others), measure)

    def weigh(slot, *rows):
        costs, mask, derivative = measure(slot, *rows)
        add_up = slot.add_up if len(costs.shape) == 2 else lambda x: x
        weights = ops.cast(counted(costs, mask, reducer), costs.dtype)
        number = ops.sum(add_up(weights))
        if factors is not None:
            weights = weights * ops.reshape(slot.take(factors), (-1,) + (1,) * (len(costs.shape) - 1))
        return (ops.sum(add_up(weights * costs)), number), derivative(weights)

    where = {"positives": positives, "others": others, "whole": whole}
    total, number = sum_over_positives(matrix, labels, weigh, totals=2, **where)
    return total if name in ("sum", "per_anchor") else total / ops.maximum(number, 1.0)


def mean_of_hinges(matrix, labels, negatives, margin: float, window, positives=None):
    """Mean of the hinges `margin + value - entry` above 0, over each anchor, its positives and its negatives.

    What `reduce_over_positives` makes of them with `"avg_non_zero"`, in two thirds of the time.

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor of the anchors.
        negatives: `(N, M)` bool.
        margin: at least 0.
        window: function of the values, `(P, 1)`, and rows that says which entries count at all.
        positives: as in `sum_over_positives`.
    """

    def measure(slot, rows):
        # One comparison with what was made before the loop: XLA does it again where it is needed and stores nothing.
        limit = ops.where(slot.present[:, None], slot.value + margin, float("-inf"))
        weights = ops.cast(ops.logical_and(rows < limit, window(slot.value, rows)), rows.dtype)
        number = slot.add_up(weights)
        return (margin * ops.sum(number), ops.sum(number)), slot.here * number[:, None] - weights

    others = ops.where(negatives, ops.stop_gradient(matrix), float("inf"))
    total, number = sum_over_positives(
        matrix, labels, measure, totals=2, positives=positives, others=(others,), linear=True
    )
    return total / ops.maximum(number, 1.0)


def mean_of_softplus(matrix, labels, negatives, margin: float, positives=None):
    """Mean of `softplus(margin + value - entry)` over each anchor, its positives and its negatives.

    What `reduce_over_positives` makes of them with `"mean"`, in a quarter of the time: one exponential an entry, and
    one logarithm for the product of some costs.

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i; no two entries of a row and `margin` may add up to more
            than `MOST_SOFT`.
        labels: `(N,)` integer tensor of the anchors.
        negatives: `(N, M)` bool.
        margin: at least 0.
        positives: as in `sum_over_positives`.
    """
    away = ops.sum(ops.cast(negatives, matrix.dtype), axis=1)

    def measure(slot, powers):
        present = ops.cast(slot.present, powers.dtype)
        raised = powers * (present[:, None] * ops.exp(slot.value + margin))
        share = raised / (1.0 + raised)
        sums = ops.sum(slot.add_up_logs(1.0 + raised)), ops.sum(present * slot.take(away))
        return sums, slot.here * slot.add_up(share)[:, None] - share

    others = ops.where(negatives, ops.exp(-ops.stop_gradient(matrix)), 0.0)
    total, number = sum_over_positives(matrix, labels, measure, totals=2, positives=positives, others=(others,))
    return total / ops.maximum(number, 1.0)


def rows_from_positives(slot: Slot, matrix, pairs: Pairs, measure):
    """What the matrix holds for the positive in place of the anchor, `(N, M)`; references count as constants.

    Args:
        slot: some positives.
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
        _, mask, _ = measure(walk.slot(shift), *walk.rows)
        mask = ops.cast(mask, numbers.dtype)
        return shift + 1, numbers + (ops.sum(mask, axis=1) if len(mask.shape) == 2 else mask)

    (numbers,) = walk.through(step, ops.zeros_like(walk.fixed[:, 0]))
    return 1.0 / (ops.maximum(numbers, 1.0) * ops.cast(ops.maximum(ops.shape(walk.fixed)[0], 1), numbers.dtype))
