"""VICReg: Bardes, Ponce & LeCun, ICLR 2022, equations 1-6."""

import keras
from keras import ops

from anchorage.checks import check_not_negative, check_positive
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import mean_where, true_rows_first
from anchorage.pairs.walk import ClassMembers


@keras.saving.register_keras_serializable(package="anchorage")
class VICRegLoss(LossLayer):
    """Two views of an item fall together, while each coordinate keeps its spread and goes its own way.

    The views a and b of an item are the first and the second row with its label; other rows are not used. Formula
    over the n items with two views, variance and covariance unbiased:

        invariance_lambda mean_{n, D} (a - b)^2
      + variance_mu  1/2 ( mean_D max(0, 1 - std_a) + mean_D max(0, 1 - std_b) ),   std = sqrt(var + eps)
      + covariance_v 1/D ( sum_{c != d} cov_a[c, d]^2 + sum_{c != d} cov_b[c, d]^2 )

    Defaults: 25, 25, 1 and 1e-4 of the authors' `main_vicreg.py` (facebookresearch/vicreg), as in
    pytorch-metric-learning 2.9.

    Args:
        invariance_lambda: weight of the first term, at least 0.
        variance_mu: weight of the second term, at least 0.
        covariance_v: weight of the third term, at least 0.
        eps: added to the variances, positive.

    Call arguments:
        embeddings: `(N, D)` float tensor; not normalised.
        labels: `(N,)` integer tensor: which rows are views of one item.

    Returns:
        Scalar float32 tensor, at least 0; 0 where fewer than two items have two views.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = VICRegLoss(variance_mu=0.0, covariance_v=0.0)
        >>> rows = keras.ops.array([[0.0], [1.0], [0.0], [3.0]])
        >>> float(loss(rows, keras.ops.array([0, 1, 0, 1])))  # 25 (0 + 4) / 2
        50.0
    """

    def __init__(
        self,
        invariance_lambda: float = 25.0,
        variance_mu: float = 25.0,
        covariance_v: float = 1.0,
        eps: float = 1e-4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(invariance_lambda=invariance_lambda, variance_mu=variance_mu, covariance_v=covariance_v)
        check_positive(eps=eps)
        self.invariance_lambda = invariance_lambda
        self.variance_mu = variance_mu
        self.covariance_v = covariance_v
        self.eps = eps

    def compute(self, embeddings, labels):
        members = ClassMembers(labels)
        second, has_second = members.partner(1)
        chosen = ops.logical_and(members.place == 0, has_second)
        # No more classes than half of the items have two: those that have come first, the rest has no weight.
        first = true_rows_first(chosen, (ops.shape(labels)[0] + 1) // 2)
        chosen, second = ops.take(chosen, first, axis=0), ops.take(second, first, axis=0)
        views = ops.take(embeddings, first, axis=0), ops.take(embeddings, second, axis=0)
        count = ops.sum(ops.cast(chosen, embeddings.dtype))
        loss = self.invariance_lambda * mean_where(ops.mean(ops.square(views[0] - views[1]), axis=1), chosen)
        for view in views:
            loss = loss + self._spread(view, ops.cast(chosen, view.dtype)[:, None], count)
        return ops.where(count > 1, loss, 0.0 * loss)

    def _spread(self, view, weights, count):
        centred = weights * (view - ops.sum(weights * view, axis=0) / ops.maximum(count, 1.0))
        covariance = ops.matmul(ops.transpose(centred), centred) / ops.maximum(count - 1.0, 1.0)
        variance = ops.diagonal(covariance)
        short = ops.mean(ops.relu(1.0 - ops.sqrt(variance + self.eps)))
        shared = ops.sum(ops.square(covariance)) - ops.sum(ops.square(variance))
        return 0.5 * self.variance_mu * short + self.covariance_v * shared / view.shape[1]
