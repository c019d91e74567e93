"""VICReg: Bardes, Ponce & LeCun, ICLR 2022, equations 1-6."""

import keras
from keras import ops

from anchorage.checks import check_not_negative, check_positive
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import mean_where, true_rows_first
from anchorage.pairs.walk import ClassMembers


@keras.saving.register_keras_serializable(package="anchorage")
class VICRegLoss(LossLayer):
    """Pulls two views of a sample together while keeping the coordinates spread out and decorrelated.

    Formula over the n samples with two views a and b, with unbiased variances and covariances:

        invariance_lambda mean_{n, D} (a - b)^2
      + variance_mu  1/2 ( mean_D max(0, 1 - std_a) + mean_D max(0, 1 - std_b) ),   std = sqrt(var + eps)
      + covariance_v 1/D ( sum_{c != d} cov_a[c, d]^2 + sum_{c != d} cov_b[c, d]^2 )

    The views of a sample are the first two rows with its label; other rows are ignored.

    Defaults: 25, 25, 1 and 1e-4 of the authors' `main_vicreg.py` (facebookresearch/vicreg), as in
    pytorch-metric-learning 2.9.

    Args:
        invariance_lambda: weight of the invariance term, at least 0.
        variance_mu: weight of the variance term, at least 0.
        covariance_v: weight of the covariance term, at least 0.
        eps: added to the variances, positive.

    Call arguments:
        embeddings: `(N, D)` float tensor, not normalized.
        labels: `(N,)` integer tensor; rows with equal labels are views of one sample.

    Returns:
        Non-negative float32 scalar; 0 if fewer than two samples have two views.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
        valid = ops.logical_and(members.place == 0, has_second)
        # At most half of the rows are first views: these are moved to the front and the padding gets weight 0.
        first = true_rows_first(valid, (ops.shape(labels)[0] + 1) // 2)
        valid, second = ops.take(valid, first, axis=0), ops.take(second, first, axis=0)
        views = ops.take(embeddings, first, axis=0), ops.take(embeddings, second, axis=0)
        count = ops.sum(ops.cast(valid, embeddings.dtype))
        loss = self.invariance_lambda * mean_where(ops.mean(ops.square(views[0] - views[1]), axis=1), valid)
        for view in views:
            loss = loss + self._variance_and_covariance(view, ops.cast(valid, view.dtype)[:, None], count)
        return ops.where(count > 1, loss, 0.0 * loss)

    def _variance_and_covariance(self, view, weights, count):
        centered = weights * (view - ops.sum(weights * view, axis=0) / ops.maximum(count, 1.0))
        covariances = ops.matmul(ops.transpose(centered), centered) / ops.maximum(count - 1.0, 1.0)
        variances = ops.diagonal(covariances)
        variance = ops.mean(ops.relu(1.0 - ops.sqrt(variances + self.eps)))
        covariance = ops.sum(ops.square(covariances)) - ops.sum(ops.square(variances))
        return 0.5 * self.variance_mu * variance + self.covariance_v * covariance / view.shape[1]
