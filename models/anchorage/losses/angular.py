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
from anchorage.pairs.walk import sum_rows

_MOST_NEAR = 20.0  # products of two powers of at most this stay far within float32
_LEAST_NEAR = 0.5  # powers of less hold too few digits of what they are made of


@keras.saving.register_keras_serializable(package="anchorage")
class AngularLoss(LossLayer):
    """Bounds the angle at the negative of every triplet (anchor, positive, negative).

    Formula, for every ordered positive pair (a, p), with `t = tan(alpha)^2`:

        loss_ap = log( 1 + sum_{n in N_a} exp( 4 t (x_a + x_p).x_n - 2 (1 + t) x_a.x_p ) )

    Between 20 and 65 degrees, and with unit rows, the sum comes from products of `exp(4 t x_a.x_n)` and
    `exp(4 t x_p.x_n)`, four times as fast as from logarithms; both are within the range of float32 there.
    pytorch-metric-learning leaves x_n at its own length, as does `normalize_negatives=False`.
    Memory grows with the square of the batch, never with its cube.

    Defaults: 40 degrees, `AngularLoss` of pytorch-metric-learning 2.9, which names no place; its `docs/losses.md` gives
    36 to 55 for the paper.

    Args:
        alpha: upper bound of the angle in degrees, in (0, 90).
        reducer: how the costs of the positive pairs become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first.
        normalize_negatives: with `normalize`, the third vector too; `False` leaves it at its own length.

    Call arguments:
        references: positives and negatives from a wrapper; None compares the batch with itself.

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

    def __init__(
        self,
        alpha: float = 40.0,
        reducer: Reducer = "mean",
        normalize: bool = True,
        normalize_negatives: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_acute(alpha=alpha)
        self.alpha = alpha
        self.reducer = check_any_reducer(reducer)
        self.normalize = normalize
        self.normalize_negatives = normalize_negatives

    def compute(self, embeddings, labels, references=None):
        pairs = compare(embeddings, labels, references, self.normalize)
        square = math.tan(math.radians(self.alpha)) ** 2
        near, pair = 4.0 * square, 2.0 * (1.0 + square)

        products = dot_products(pairs.rows, pairs.columns)
        if self.normalize and not self.normalize_negatives:
            products = self._with_long_negatives(products, pairs, embeddings, labels, references)

        # Anchor and positive of a batch can change places.
        flow = "symmetric" if references is None else "scatter" if pairs.columns is pairs.rows else "none"
        where = {"positives": None if references is None else pairs.positives, "flow": flow}
        if self.normalize and self.normalize_negatives and _LEAST_NEAR <= near <= _MOST_NEAR:
            # exp(4 t (x_a + x_p).x_n) is a product of two powers, and exp(x_a.x_p) one of a third.
            powers = ops.exp(near * products)

            def cost_by_powers(block, positive, rows, between):
                total = positive[:, 0] ** (-pair / near) * sum_rows(rows * between)
                return ops.log1p(total), block.present

            fixed = ops.stop_gradient(powers)  # outside of the loop, which XLA refuses to differentiate
            of_negatives = ops.where(pairs.negatives, fixed, 0.0)

            def powers_of_positives(block):
                if flow == "symmetric":  # a positive has the negatives of its anchor
                    return ops.take(of_negatives, block.index, axis=0)
                rows = rows_from_positives(block, fixed, pairs, lambda a, b: ops.exp(near * dot_products(a, b)))
                return ops.where(block.take(pairs.negatives), rows, 0.0)

            where["others"] = (of_negatives,)
            return reduce_over_positives(
                powers, labels, cost_by_powers, self.reducer, between=powers_of_positives, **where
            )

        fixed_products = ops.stop_gradient(products)

        def cost(block, positive, rows, between):
            logits = near * (rows + between) - pair * positive
            return masked_log1p_sum_exp(logits, block.take(pairs.negatives), axis=1), block.present

        def products_of_positives(block):
            return rows_from_positives(block, fixed_products, pairs, measure_far)

        def measure_far(a, b):
            far = b if self.normalize_negatives or not self.normalize else ops.stop_gradient(references.embeddings)
            return dot_products(a, far)

        return reduce_over_positives(products, labels, cost, self.reducer, between=products_of_positives, **where)

    def _with_long_negatives(self, products, pairs, embeddings, labels, references):
        """The products; those with items of other classes use the unnormalized embeddings of these."""
        others, columns = ops.convert_to_tensor(labels), embeddings
        if references is not None and references.embeddings is not None:
            others, columns = ops.convert_to_tensor(references.labels), references.embeddings
        same = ops.cast(labels, "int32")[:, None] == ops.cast(others, "int32")[None, :]
        return ops.where(same, products, dot_products(pairs.rows, columns))
