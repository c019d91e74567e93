"""Cross-entropy of a linear classifier with smoothed labels: Boudiaf et al., ECCV 2020, sections 3.2 and 5."""

import math

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.geometry import unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.proxies.logits import logsumexp_of_all, mean_of_others, target_logits


@keras.saving.register_keras_serializable(package="anchorage")
class SoftmaxLoss(LossLayer):
    """Cross-entropy of a linear classifier on the embeddings; the classifier is discarded after training.

    Formula, with logits `o_ik = (w_k.z_i + b_k) / temperature` and targets `t_ik = 1 - label_smoothing` for the
    class of sample i, `label_smoothing / (K - 1)` for each other class:

        loss = mean_i sum_k -t_ik log softmax(o_i)_k      minus the entropy of t if `kl`

    With `normalize=True, normalize_weight=True, use_bias=False, temperature=0.05` it is the normalized softmax of
    Zhai & Wu (BMVC 2019).

    Defaults: plain cross-entropy; the paper's recipe uses a label smoothing of 0.1 (`experiment.py` of
    jeromerony/dml_cross_entropy).

    Args:
        num_classes: number of training classes K; labels lie in `0 .. num_classes - 1`.
        label_smoothing: target mass in [0, 1) spread over the other classes. The argument of the same name in Keras
            spreads it over all classes.
        temperature: divides the logits, positive.
        kl: subtract the entropy of the targets, so that the minimum is 0; gradients do not change.
        normalize: L2-normalize the embeddings first.
        normalize_weight: L2-normalize the class weights.
        use_bias: add a trainable bias per class.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.
        watch: log the metric `mi_lower_bound` during training, the epoch mean of log K minus the cross-entropy
            without smoothing. For balanced classes it is a lower bound, in nats, on the mutual information of labels
            and embeddings; early in training it can be negative.

    Call arguments:
        row_weights: `(N,)` per-sample weights, as from a miner; None weights all samples by 1.
        training: `False` does not update the metric of `watch`.
        novel_proxies: `(M, D)` proxies of additional classes, with labels from `num_classes` on, for this call only;
            requires `use_bias=False` and `kl=False`.

    Returns:
        Non-negative float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

    Example:
        >>> loss = SoftmaxLoss(num_classes=4)  # the classifier starts at zero: log 4
        >>> round(float(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2]))), 4)
        1.3863
    """

    takes = ("row_weights", "training", "novel_proxies")
    dense_labels = True

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float = 0.0,
        temperature: float = 1.0,
        kl: bool = False,
        normalize: bool = False,
        normalize_weight: bool = False,
        use_bias: bool = True,
        reducer: Reducer = "mean",
        watch: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(num_classes=num_classes)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must lie in [0, 1). Received: label_smoothing={label_smoothing}")
        check_positive(temperature=temperature)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.temperature = temperature
        self.kl = kl
        self.normalize = normalize
        self.normalize_weight = normalize_weight
        self.use_bias = use_bias
        self.reducer = check_any_reducer(reducer)
        self.watch = watch
        self._watched = [keras.metrics.Mean(name="mi_lower_bound")] if watch else []

    def build(self, embeddings_shape, labels_shape):
        # A plain classifier starts at zero, as in the paper's code; a weight to be normalized cannot.
        self.proxies = self.add_weight(
            name="proxies",
            shape=(self.num_classes, embeddings_shape[-1]),
            initializer="random_normal" if self.normalize_weight else "zeros",
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.num_classes,), initializer="zeros")

    def compute(self, embeddings, labels, row_weights=None, training=None, novel_proxies=None):
        weights = ops.convert_to_tensor(self.proxies)
        if novel_proxies is not None:
            if self.use_bias or self.kl:
                raise ValueError(
                    "Expected use_bias=False and kl=False with `novel_proxies`. "
                    f"Received: use_bias={self.use_bias}, kl={self.kl}"
                )
            weights = ops.concatenate([weights, novel_proxies], axis=0)
        rows = unit_rows(embeddings) if self.normalize else embeddings
        weights = unit_rows(weights) if self.normalize_weight else weights
        rows = rows / self.temperature
        if self.use_bias:  # as one more coordinate
            weights = ops.concatenate([weights, ops.convert_to_tensor(self.bias)[:, None]], axis=1)
            rows = ops.concatenate([rows, ops.full_like(rows[:, :1], 1.0 / self.temperature)], axis=1)
        weights = weights[:, None, :]
        target = target_logits(rows, weights, labels)
        # The target logit is computed separately, so rounding can make the difference slightly negative.
        costs = ops.relu(logsumexp_of_all(rows, weights) - target)
        for metric in self._watched if training is not False and novel_proxies is None else ():
            metric.update_state(math.log(self.num_classes) - ops.mean(costs))
        if self.label_smoothing and self.num_classes > 1:
            costs = costs + self.label_smoothing * (target - mean_of_others(rows, weights, labels))
        costs = costs - (self._target_entropy() if self.kl else 0.0)
        costs = costs if row_weights is None else costs * row_weights
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)

    def _target_entropy(self) -> float:
        others, eps = self.num_classes - 1, self.label_smoothing
        return -(1 - eps) * math.log(1 - eps) - eps * math.log(eps / others) if eps and others else 0.0
