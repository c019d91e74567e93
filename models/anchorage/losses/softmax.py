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
    """Classifies the embeddings; the classifier is thrown away afterwards.

    Formula, with logits `o_ik = (w_k.z_i + b_k) / temperature`, target `t_ik = 1 - label_smoothing` for the own
    class and `label_smoothing / (K - 1)` for each other:

        loss = mean_i sum_k -t_ik log softmax(o_i)_k      minus the entropy of t with `kl`

    With `normalize=True, normalize_weight=True, use_bias=False, temperature=0.05` it is the normalised softmax of
    Zhai & Wu (BMVC 2019).

    Defaults: plain cross-entropy; the paper's recipe smooths labels by 0.1 (`experiment.py` of
    jeromerony/dml_cross_entropy).

    Args:
        num_classes: number of training classes K; labels lie in `0 .. num_classes - 1`.
        label_smoothing: share of the target, in [0, 1), spread over the other classes. Keras's argument
            of the same name spreads it over all classes.
        temperature: divides the logits, positive.
        kl: subtract the entropy of the target, so that the least value is 0; gradients stay the same.
        normalize: bring the embeddings to unit length first.
        normalize_weight: use the class weights at unit length.
        use_bias: add one trainable number to the logits of each class.
        reducer: how the costs of the rows become one, see `anchorage.pairs.reducers`.
        watch: show `mi_lower_bound`, averaged over the epoch, beside the loss in training: log K less the plain
            cross-entropy. With classes of one size it bounds the mutual information of labels and embeddings from
            below, in nats; early on it can be negative.

    Call arguments:
        row_weights: `(N,)` factors on the costs of the items, as a miner gives them; None for 1.
        training: `False` leaves what `watch` shows as it is.
        novel_proxies: `(M, D)` proxies of further classes, labelled `num_classes` on, for this call only; needs
            `use_bias=False` and `kl=False`.

    Returns:
        Scalar float32 tensor, at least 0. A compiled call with a label
        outside the classes gives nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit
            together, or (eager calls) a label outside the classes.

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
        # A direction cannot start at zero; a plain classifier does, as published.
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
                    "Expected a softmax with use_bias=False and kl=False where there are novel classes. "
                    f"Received: use_bias={self.use_bias}, kl={self.kl}"
                )
            weights = ops.concatenate([weights, novel_proxies], axis=0)
        rows = unit_rows(embeddings) if self.normalize else embeddings
        weights = unit_rows(weights) if self.normalize_weight else weights
        rows = rows / self.temperature
        if self.use_bias:  # one coordinate more
            weights = ops.concatenate([weights, ops.convert_to_tensor(self.bias)[:, None]], axis=1)
            rows = ops.concatenate([rows, ops.full_like(rows[:, :1], 1.0 / self.temperature)], axis=1)
        weights = weights[:, None, :]
        own = target_logits(rows, weights, labels)
        # The own logit is no summand to the last digit: it comes from another product.
        costs = ops.relu(logsumexp_of_all(rows, weights) - own)
        for sign in self._watched if training is not False and novel_proxies is None else ():
            sign.update_state(math.log(self.num_classes) - ops.mean(costs))
        if self.label_smoothing and self.num_classes > 1:
            costs = costs + self.label_smoothing * (own - mean_of_others(rows, weights, labels))
        costs = costs - (self._target_entropy() if self.kl else 0.0)
        costs = costs if row_weights is None else costs * row_weights
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)

    def _target_entropy(self) -> float:
        rest, eps = self.num_classes - 1, self.label_smoothing
        return -(1 - eps) * math.log(1 - eps) - eps * math.log(eps / rest) if eps and rest else 0.0
