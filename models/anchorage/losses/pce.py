"""Pairwise cross-entropy: Boudiaf et al., ECCV 2020, proposition 2."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.geometry import dot_products, unit_rows
from anchorage.labels import check_class_labels
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import check_batch
from anchorage.proxies.logits import sums_of_classes, target_logits


@keras.saving.register_keras_serializable(package="anchorage")
class PCELoss(LossLayer):
    """Cross-entropy as a pair loss, with the classifier eliminated.

    Formula, with n items, `p` the probabilities the classifier gives and `c_k = 1/n sum_i p_ik z_i`:

        tightness   = -1 / (2 lam n^2) sum_i sum_{y_j = y_i} z_i.z_j
        contrastive = 1/n sum_i log sum_k exp(z_i.c_k / lam) - 1 / (2 lam) sum_k |c_k|^2

    The printed form was not open to us; this is a derivation whose value was checked. The sum of the parts
    is no bound on the cross-entropy.

    Defaults: ours: no code of this loss was published, and its printed form was not open to us. lambda 1 and constant p
    are the plainest choice in the derivation.

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        lam: weight of the squared norm of the classifier, positive.
        detach_p: stop the gradient through `p`.
        train_classifier: train the classifier by its own cross-entropy on the embeddings, which get no gradient from
            it; the value of the loss stays the same.
        normalize: normalize the embeddings first.

    Returns:
        Scalar float32 tensor. A compiled call with a label outside the classes gives nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit together, or (eager calls) a label outside the
            classes.

    Example:
        >>> loss = PCELoss(num_classes=2)
        >>> value = loss(keras.ops.eye(2), keras.ops.array([0, 1]))
        >>> tuple(value.shape)
        ()
    """

    dense_labels = True

    def __init__(
        self,
        num_classes: int,
        lam: float = 1.0,
        detach_p: bool = True,
        train_classifier: bool = True,
        normalize: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(num_classes=num_classes)
        check_positive(lam=lam)
        self.num_classes = num_classes
        self.lam = lam
        self.detach_p = detach_p
        self.train_classifier = train_classifier
        self.normalize = normalize

    def build(self, embeddings_shape, labels_shape):
        shape = (self.num_classes, embeddings_shape[-1])
        self.proxies = self.add_weight(name="proxies", shape=shape, initializer="random_normal")

    def compute(self, embeddings, labels):
        tightness, contrastive, classifier = self._terms(embeddings, labels)
        loss = tightness + contrastive
        if self.train_classifier:
            loss = loss + classifier - ops.stop_gradient(classifier)
        return loss

    def terms(self, embeddings, labels):
        """The tightness and the contrastive part of the loss, two scalars; the layer must be built.

        Example:
            >>> loss, rows, labels = PCELoss(num_classes=2), keras.ops.eye(2), keras.ops.array([0, 1])
            >>> value = loss(rows, labels)
            >>> round(float(loss.terms(rows, labels)[0]), 4)  # -(1 + 1) / (2 lam n^2)
            -0.25
        """
        check_batch(embeddings, labels)
        labels, _ = check_class_labels(labels, self.num_classes)
        return self._terms(embeddings, labels)[:2]

    def _terms(self, embeddings, labels):
        rows = unit_rows(embeddings) if self.normalize else embeddings
        proxies, fixed = ops.convert_to_tensor(self.proxies), ops.stop_gradient(rows)
        logits = dot_products(fixed, proxies)
        top = ops.stop_gradient(ops.max(logits, axis=1, keepdims=True))
        shares = ops.exp(logits - top)
        total = ops.sum(shares, axis=1)
        own = target_logits(fixed, proxies[:, None, :], labels)
        classifier = ops.mean(ops.log(total) + top[:, 0] - own)
        count = ops.cast(ops.shape(rows)[0], rows.dtype)
        sums = sums_of_classes(rows, labels, self.num_classes)
        tightness = -ops.sum(ops.square(sums)) / (2.0 * self.lam * count * count)
        if self.detach_p:  # the rows of the embeddings are divided by the sums instead of a matrix p
            shares, total = ops.stop_gradient(shares), ops.stop_gradient(total)
            centers = ops.matmul(ops.transpose(shares), rows / total[:, None]) / count
        else:
            probabilities = ops.softmax(dot_products(rows, proxies), axis=1)
            centers = ops.matmul(ops.transpose(probabilities), rows) / count
        spread = ops.mean(ops.logsumexp(dot_products(rows / self.lam, centers), axis=1))
        return tightness, spread - ops.sum(ops.square(centers)) / (2.0 * self.lam), classifier
