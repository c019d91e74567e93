"""Angular loss: Wang, Zhou, Wen, Liu & Lin, ICCV 2017, equations 6-8, over all triplets of the batch."""

import math

import keras
from keras import ops

from anchorage.checks import check_acute
from anchorage.geometry import dot_products, masked_log1p_sum_exp
from anchorage.losses.base import LossLayer
from anchorage.pairs.positives import reduce_over_positives, rows_from_positives
from anchorage.pairs.reducers import Reducer, check_any_reducer
from anchorage.pairs.references import compare

_MOST_NEAR = 20.0  # products of two powers of at most this stay far within float32


@keras.saving.register_keras_serializable(package="anchorage")
class AngularLoss(LossLayer):
    """Bounds the angle at the negative of every triplet (anchor, positive, negative).

    Formula, for every ordered positive pair (a, p), with `t = tan(alpha)^2`:

        loss_ap = log( 1 + sum_{n in N_a} exp( 4 t (x_a + x_p).x_n - 2 (1 + t) x_a.x_p ) )

    Up to 65 degrees, and with unit rows, the sum comes from products of `exp(4 t x_a.x_n)` and `exp(4 t x_p.x_n)`,
    four times as fast as from logarithms; both are within the range of float32 there.
    pytorch-metric-learning leaves x_n at its own length; here all three have the same treatment.
    Memory grows with the square of the batch, never with its cube.

    Defaults: 40 degrees, `AngularLoss` of pytorch-metric-learning 2.9, which names no place; its `docs/losses.md` gives
    36 to 55 for the paper.

    Args:
        alpha: upper bound of the angle in degrees, in (0, 90).
        reducer: how the costs of the positive pairs become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first.

    Call arguments:
        references: what a wrapper hands over, positives and negatives then come from it; None compares the batch
            with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 for a batch without positives.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = AngularLoss(alpha=45.0)  # log(1 + exp(4 * 2 - 2 * 2))
        >>> round(float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1]))), 4)
        4.0181
    """

    takes = ("references",)

    def __init__(self, alpha: float = 40.0, reducer: Reducer = "mean", normalize: bool = True, **kwargs):
        super().__init__(**kwargs)
        check_acute(alpha=alpha)
        self.alpha = alpha
        self.reducer = check_any_reducer(reducer)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        pairs = compare(embeddings, labels, references, self.normalize)
        square = math.tan(math.radians(self.alpha)) ** 2
        near, pair = 4.0 * square, 2.0 * (1.0 + square)

        products = dot_products(pairs.rows, pairs.columns)
        fixed = ops.stop_gradient(products)
        mined = references is not None and pairs.columns is pairs.rows
        small = self.normalize and near <= _MOST_NEAR
        powers = ops.exp(near * fixed) if small else None

        def by_powers(slot, rows):
            """Costs, the terms of the sum, and one over the whole that they are shares of."""
            terms = rows * rows_from_positives(slot, powers, pairs, lambda a, b: ops.exp(near * dot_products(a, b)))
            far = ops.exp(-pair * slot.value[:, 0])
            total = far * slot.add_up(terms)
            return ops.log1p(total), terms, far / (1.0 + total), total / (1.0 + total)

        def by_logarithms(slot, rows):
            logits = near * (rows + rows_from_positives(slot, fixed, pairs, dot_products)) - pair * slot.value
            mask = slot.take(pairs.negatives)
            costs = masked_log1p_sum_exp(logits, mask, axis=1)
            terms = ops.where(mask, ops.exp(ops.where(mask, logits, 0.0) - costs[:, None]), 0.0)
            return costs, terms, ops.ones_like(costs), slot.add_up(terms)

        def measure(slot, rows):
            costs, terms, scale, share = (by_powers if small else by_logarithms)(slot, rows)

            def derivative(weights):
                slope = terms * (scale * weights)[:, None]
                both = slope
                if mined:
                    both = slope + slot.back(slope)
                elif references is None:  # the positive has its turn as the anchor, at the same cost
                    both = 2.0 * slope
                return near * both - slot.here * (pair * share * weights)[:, None]

            return costs, slot.present, derivative

        positives = None if references is None else pairs.positives
        others = (ops.where(pairs.negatives, powers, 0.0),) if small else None
        return reduce_over_positives(
            products, labels, measure, self.reducer, positives=positives, others=others, whole=mined
        )
