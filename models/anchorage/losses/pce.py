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
    """Pairwise form of cross-entropy, with the classifier weights eliminated.

    Formula, with n embeddings z, `p` the class probabilities of the classifier and `c_k = 1/n sum_i p_ik z_i`:

        tightness   = -1 / (2 lam n^2) sum_i sum_{y_j = y_i} z_i.z_j
        contrastive = 1/n sum_i log sum_k exp(z_i.c_k / lam) - 1 / (2 lam) sum_k |c_k|^2

        loss        = tightness + contrastive

    We could not consult the printed form; this is our derivation, checked numerically. The sum is not a bound on the
    cross-entropy.

    Defaults: ours, as no code of this loss was published and we could not consult its printed form. lambda 1 and
    constant p are the simplest choice in the derivation.

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        lam: weight of the L2 penalty on the classifier, positive.
        detach_p: stop gradients through `p`.
        train_classifier: train the classifier by cross-entropy on the detached embeddings. This changes neither the
            value of the loss nor the gradient of the embeddings.
        normalize: L2-normalize the embeddings first.

    Returns:
        Float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

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
        """The tightness and contrastive terms, two scalars; the layer must be built.

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
        proxies, detached = ops.convert_to_tensor(self.proxies), ops.stop_gradient(rows)
        logits = dot_products(detached, proxies)
        largest = ops.stop_gradient(ops.max(logits, axis=1, keepdims=True))
        exponentials = ops.exp(logits - largest)
        total = ops.sum(exponentials, axis=1)
        target = target_logits(detached, proxies[:, None, :], labels)
        classifier = ops.mean(ops.log(total) + largest[:, 0] - target)
        count = ops.cast(ops.shape(rows)[0], rows.dtype)
        sums = sums_of_classes(rows, labels, self.num_classes)
        tightness = -ops.sum(ops.square(sums)) / (2.0 * self.lam * count * count)
        if self.detach_p:  # avoids an (N, C) tensor of probabilities: the embeddings are divided by `total` instead
            exponentials, total = ops.stop_gradient(exponentials), ops.stop_gradient(total)
            centers = ops.matmul(ops.transpose(exponentials), rows / total[:, None]) / count
        else:
            probabilities = ops.softmax(dot_products(rows, proxies), axis=1)
            centers = ops.matmul(ops.transpose(probabilities), rows) / count
        contrastive = ops.mean(ops.logsumexp(dot_products(rows / self.lam, centers), axis=1))
        contrastive = contrastive - ops.sum(ops.square(centers)) / (2.0 * self.lam)
        return tightness, contrastive, classifier
