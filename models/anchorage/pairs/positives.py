"""Sums over (anchor, positive, any other item) in (batch, batch) memory, with exact gradients."""

from keras import ops

from anchorage.pairs.derivatives import value_and_slopes
from anchorage.pairs.reducers import Reducer, class_factors, counted, name_of
from anchorage.pairs.references import Pairs
from anchorage.pairs.walk import PositiveBlock, PositivesWalk, repeat_rows, sum_logs_of_rows, sum_rows

POSITIVES_PER_STEP = 2  # of each anchor; more would be mostly padding where classes are small


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
    """Sums `measure` over every (anchor, positive) pair; the gradient flows to the matrix.

    Loops over blocks of anchors, and within a block over the positives, two of each anchor at a time: about
    (largest class - 1) / 2 steps on (P, N) tensors. The loops run outside the gradient: `measure` returns beside each
    sum its derivative with respect to the rows of the matrix, and `sum(derivative * matrix)` carries the gradient.
    What it computes should be plain arithmetic and comparisons: XLA vectorises little that reads or writes booleans.

    Args:
        matrix: `(N, N)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor.
        measure: function of `(block, rows)`, the rows of the matrix for P pairs, (or of `(block, *rows)`, those of each
            of `others`), giving a tuple of `totals` scalars and the `(P, N)` derivative of the first of them with
            respect to the rows of the matrix.
        totals: how many sums there are.
        with_self: count an item among its own positives.
        positives: `(N, M)` bool, which entries of an `(N, M)` matrix are the positives, where labels
            do not say it. A block's `scatter_to_positive` has no meaning unless the columns are the rows.
        others: tuple of `(N, M)` tensors whose rows `measure` gets in place of the matrix's, such as the matrix with
            infinity where nothing counts: made once, it saves a mask in every step.
        whole: take all anchors as one block, for a `measure` that needs `block.scatter_to_positive`.
        linear: add `sum(derivative * matrix)` to the first total: for costs that are linear in the matrix, whose sum
            would be one more pass over the rows.
        signed: whether a linear total may lie below 0, where else only rounding can take it.

    Returns:
        Tuple of scalars; gradients flow through the first.
    """
    walk = PositivesWalk(matrix, labels, with_self, positives, others)
    zero = ops.sum(walk.fixed[:0])
    positives_per_step = 1 if whole else POSITIVES_PER_STEP

    def sum_rows(numbers):
        anchors = walk.at(numbers)
        rows = tuple(repeat_rows(x, positives_per_step) for x in anchors.rows)

        def step(shift, weights, *sums):
            values, slopes = measure(anchors.positive_block(shift, positives_per_step), *rows)
            slopes = ops.reshape(slopes, (-1, positives_per_step, slopes.shape[1] or ops.shape(slopes)[1]))
            # Within the sum: XLA does not vectorise what adds to a tensor in its place.
            weights = ops.sum(slopes + weights[:, None, :] * (1.0 / positives_per_step), axis=1)
            return (
                shift + positives_per_step,
                weights,
                *(total + more for total, more in zip(sums, values, strict=True)),
            )

        return walk.through(step, ops.zeros_like(anchors.fixed), *[zero] * totals)

    if whole:
        weights, *sums = sum_rows(None)
    else:
        weights, *sums = ops.map(sum_rows, walk.blocks(positives_per_step))
        weights = ops.reshape(weights, (-1, ops.shape(matrix)[1]))[: ops.shape(matrix)[0]]
        sums = [ops.sum(total) for total in sums]
    carrier = ops.sum(ops.stop_gradient(weights) * matrix)
    constant = ops.stop_gradient(carrier)
    first = sums[0] + constant if linear else sums[0]
    if linear and not signed:
        first = ops.relu(first)
    return (ops.stop_gradient(first) + carrier - constant, *sums[1:])


def reduce_over_positives(
    matrix, labels, cost, reducer: Reducer, *, positives=None, others=None, between=None, flow: str = "none"
):
    """Reduces the costs of all (anchor, positive) pairs, or of triplets, to one number.

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor of the anchors.
        cost: function of `(block, positive, rows)`, the `(P, 1)` entries at the positives and the `(P, M)` rows of the
            anchors, that gives the costs, `(P,)` or `(P, M)`, and a mask of those that count. The backend
            differentiates it.
        reducer: see `anchorage.pairs.reducers`; `"per_anchor"` goes through the positives twice.
        positives: as in `sum_over_positives`.
        others: None, or a tuple of one `(N, M)` tensor, as there.
        between: function of a block that gives the rows of the positives, `(P, M)`: a fourth argument of the cost.
        flow: how the gradient flows through them: `"none"`; `"scatter"` to the rows of the positives, which takes all
            anchors as one block; or `"symmetric"`, where anchor and positive can change places and each pair comes
            both ways, so that twice the derivative with respect to the rows of the anchors is the same.
    """
    name, factors = name_of(reducer), None
    if name == "class_weighted":
        factors = class_factors(labels, reducer, matrix.dtype)

    def inputs_of(block, rows):
        return (block.value, rows) if between is None else (block.value, rows, between(block))

    if name == "per_anchor":
        walk = PositivesWalk(matrix, labels, False, positives, others)
        factors = _shares_of_anchors(walk, lambda block, rows: cost(block, *inputs_of(block, rows))[1])

    def weigh(block, rows):
        def total(*inputs):
            costs, mask = cost(block, *inputs)
            add_up = sum_rows if len(costs.shape) == 2 else lambda x: x
            weights = ops.stop_gradient(ops.cast(counted(costs, mask, reducer), costs.dtype))
            number = ops.sum(add_up(weights))
            if factors is not None:
                weights = weights * ops.reshape(block.take(factors), (-1,) + (1,) * (len(costs.shape) - 1))
            return ops.sum(add_up(weights * costs)), number

        sums, (of_positive, of_rows, *of_between) = value_and_slopes(total, *inputs_of(block, rows))
        if flow == "scatter":
            of_rows = of_rows + block.scatter_to_positive(of_between[0])
        elif flow == "symmetric":
            of_rows = 2.0 * of_rows
        return sums, of_rows + block.one_hot * of_positive

    where = {"positives": positives, "others": others, "whole": flow == "scatter"}
    total, number = sum_over_positives(matrix, labels, weigh, totals=2, **where)
    return total if name in ("sum", "per_anchor") else total / ops.maximum(number, 1.0)


def mean_of_hinges(matrix, labels, negatives, margin: float, window, positives=None):
    """Mean of the hinges `margin + value - entry` above 0, over each anchor, its positives and its negatives.

    What `reduce_over_positives` makes of them with `"avg_non_zero"`. The derivative, one for each hinge above 0, is
    written out: the backend's takes 4 times the CPU time under XLA (108 and 431 ms a step of 2,048 rows, 21 of a
    class), 1.3 times as a graph (605 and 808 ms).

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i.
        labels: `(N,)` integer tensor of the anchors.
        negatives: `(N, M)` bool.
        margin: at least 0.
        window: function of the values, `(P, 1)`, and rows that says which entries count at all.
        positives: as in `sum_over_positives`.
    """

    def measure(block, rows):
        # One comparison with what was made before the loop: XLA does it again where it is needed and stores nothing.
        limit = ops.where(block.present[:, None], block.value + margin, float("-inf"))
        weights = ops.cast(ops.logical_and(rows < limit, window(block.value, rows)), rows.dtype)
        number = sum_rows(weights)
        return (margin * ops.sum(number), ops.sum(number)), block.one_hot * number[:, None] - weights

    others = ops.where(negatives, ops.stop_gradient(matrix), float("inf"))
    total, number = sum_over_positives(
        matrix, labels, measure, totals=2, positives=positives, others=(others,), linear=True
    )
    return total / ops.maximum(number, 1.0)


def mean_of_softplus(matrix, labels, negatives, margin: float, positives=None):
    """Mean of `softplus(margin + value - entry)` over each anchor, its positives and its negatives.

    What `reduce_over_positives` makes of them with `"mean"`. One logarithm for a product of terms and a written-out
    derivative take a seventh of the CPU time (158 and 1,114 ms a step; XLA, 2,048 rows, 21 of a class).

    Args:
        matrix: `(N, M)` float tensor, row i from anchor i; no two entries of a row and `margin` may add up to more
            than `MOST_SOFT`.
        labels: `(N,)` integer tensor of the anchors.
        negatives: `(N, M)` bool.
        margin: at least 0.
        positives: as in `sum_over_positives`.
    """
    away = ops.sum(ops.cast(negatives, matrix.dtype), axis=1)

    def measure(block, powers):
        present = ops.cast(block.present, powers.dtype)
        raised = powers * (present[:, None] * ops.exp(block.value + margin))
        share = raised / (1.0 + raised)
        sums = ops.sum(sum_logs_of_rows(1.0 + raised)), ops.sum(present * block.take(away))
        return sums, block.one_hot * sum_rows(share)[:, None] - share

    others = ops.where(negatives, ops.exp(-ops.stop_gradient(matrix)), 0.0)
    total, number = sum_over_positives(matrix, labels, measure, totals=2, positives=positives, others=(others,))
    return total / ops.maximum(number, 1.0)


def rows_from_positives(block: PositiveBlock, matrix, pairs: Pairs, measure):
    """Rows of the matrix of the positives in place of the anchors, `(P, M)`; references count as constants.

    Args:
        block: some positives.
        matrix: `measure(pairs.rows, pairs.columns)`.
        pairs: what is compared with what.
        measure: function of two matrices of rows.
    """
    if pairs.columns is pairs.rows:
        return ops.take(matrix, block.index, axis=0)
    columns = ops.stop_gradient(pairs.columns)
    return measure(ops.take(columns, block.index, axis=0), columns)


def _shares_of_anchors(walk, mask_of):
    """`(N,)` one over the number of costs of each anchor, and over the number of anchors."""

    def step(shift, numbers):
        mask = ops.cast(mask_of(walk.positive_block(shift), *walk.rows), numbers.dtype)
        return shift + 1, numbers + (ops.sum(mask, axis=1) if len(mask.shape) == 2 else mask)

    (numbers,) = walk.through(step, ops.zeros_like(walk.fixed[:, 0]))
    return 1.0 / (ops.maximum(numbers, 1.0) * ops.cast(ops.maximum(ops.shape(walk.fixed)[0], 1), numbers.dtype))
