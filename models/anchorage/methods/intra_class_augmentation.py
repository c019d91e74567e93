"""Intra-class adaptive augmentation: Fu, Mao, Hu, Liu & Zhang, IEEE Transactions on Multimedia 2022."""

import keras
import numpy as np
from keras import ops

from anchorage.checks import check_at_least_one, check_between, check_not_negative, check_positive
from anchorage.errors import UsageError
from anchorage.geometry import dot_products, unit_rows
from anchorage.inference import predict_rows
from anchorage.labels import check_class_labels
from anchorage.losses.base import call_arguments
from anchorage.methods._class_statistics import ClassStatistics, class_statistics, correct_variances, merge_statistics
from anchorage.methods.method import Method
from anchorage.pairs.masks import pair_masks
from anchorage.pairs.references import References
from anchorage.seeds import SavedSeedGenerator

_MANY_CLASSES = 1000  # the authors' code treats datasets with more classes as few-sample
_SAME = 1.0 - 1e-5  # cosine from which on positives are ignored
_FACTORS = ((0.4, 1.0), (0.6, 0.9), (0.8, 0.75), (1.0, 0.6))  # up to this fraction of the epochs, this factor


@keras.saving.register_keras_serializable(package="anchorage")
class IntraClassAugmentation(Method):
    """Augments a batch with synthetic embeddings drawn from the estimated variance of each class.

    Formula, for an embedding z of class y before L2 normalization, with S the variances of the class by channel, f a
    factor that decreases from 1 to 0.6 over the epochs, and e standard normal noise:

        z' = z + sqrt(strength f S_y) * e

    In a pair loss, the real embeddings are the anchors. They are compared with all real embeddings and all z', except
    themselves and their own copies; positives with a cosine of 0.99999 or more are ignored. A proxy loss receives the
    copies as additional samples. Gradients flow through z into its copies, but not into S.

    After `start_epoch` epochs of plain training, and then every `update_every` epochs, a pass over the training images
    estimates the mean and variance of each class. For datasets with few samples per class, these variances are shrunk
    towards those of similar classes and of all classes (`anchorage.methods._class_statistics`). The authors' code
    computes this correction without using it, takes the square root once more for every further copy, and includes
    excluded classes when scaling distances; this implementation follows the paper in all three.

    Args:
        num_classes: number of training classes C.
        embedding_size: embedding size D.
        epochs: number of training epochs, for the factor f.
        copies: synthetic embeddings per embedding (M in the paper), at least 1.
        strength: factor on the variance (lambda), at least 0; 0.5 to 0.8 in the paper.
        start_epoch: epochs of plain training, below `epochs`; 30 of 100 in the authors' code.
        update_every: epochs between two estimates, at least 1.
        momentum: maximum weight of the previous estimate, in [0, 1].
        few_sample: whether to correct the variances of small classes; None does so for more than 1,000 classes.
        neighbors: number of similar classes (K), at least 1.
        beta: how fast the correction decreases with the number of samples, in [0, 1].
        gamma: weight of the variance of all classes in the correction, in [0, 1].
        tau: largest number of samples of a corrected class, at least 0.
        sigma_m: width of the kernel on distances of squared means, positive.
        sigma_cv: width of the kernel on distances of variances, positive.
        distance_norm: scaling of these distances, `"minmax"` or `"none"`.
        fade: whether f decreases, as in the authors' code only; otherwise it is 1.
        seed: of the noise.

    Raises:
        ValueError: if an argument is out of range or (eager calls) a label is out of range.
        UsageError: E_METHOD_LOSS if the loss accepts neither references nor proxies; E_METHOD_ENCODER if the encoder
            has no `raw` output.
    """

    needs_raw = True

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        epochs: int,
        copies: int = 3,
        strength: float = 0.8,
        start_epoch: int = 30,
        update_every: int = 4,
        momentum: float = 0.2,
        few_sample: bool | None = None,
        neighbors: int = 25,
        beta: float = 0.1,
        gamma: float = 0.1,
        tau: float = 40.0,
        sigma_m: float = 1.0,
        sigma_cv: float = 1.0,
        distance_norm: str = "minmax",
        fade: bool = True,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(copies=copies, update_every=update_every, neighbors=neighbors)
        check_not_negative(strength=strength, start_epoch=start_epoch, tau=tau)
        check_between(0, 1, momentum=momentum, beta=beta, gamma=gamma)
        check_positive(sigma_m=sigma_m, sigma_cv=sigma_cv)
        if start_epoch >= epochs:
            raise ValueError(
                f"`start_epoch` must be below the {epochs} epochs of the training. Received: start_epoch={start_epoch}"
            )
        if distance_norm not in ("minmax", "none"):
            raise ValueError(f"`distance_norm` must be 'minmax' or 'none'. Received: distance_norm={distance_norm!r}")
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.epochs = epochs
        self.copies = copies
        self.strength = strength
        self.start_epoch = start_epoch
        self.update_every = update_every
        self.momentum = momentum
        self.few_sample = few_sample
        self.neighbors = neighbors
        self.beta = beta
        self.gamma = gamma
        self.tau = tau
        self.sigma_m = sigma_m
        self.sigma_cv = sigma_cv
        self.distance_norm = distance_norm
        self.fade = fade
        self.seed = seed
        self._draws = SavedSeedGenerator(seed)

    def prepare(self, learner):
        self._compares = "references" in call_arguments(learner.loss_layer)
        if not self._compares and not hasattr(learner.loss_layer, "proxies"):
            raise UsageError(
                "E_METHOD_LOSS",
                "Expected a pair loss that accepts references, such as multi_similarity, contrastive or triplet, or a "
                f"loss with proxies. Received: {type(learner.loss_layer).__name__}",
            )
        outputs = getattr(learner.encoder, "output", None)
        if not isinstance(outputs, dict) or "raw" not in outputs:
            raise UsageError(
                "E_METHOD_ENCODER",
                "Expected an encoder with the output `raw`, the embeddings before L2 normalization: "
                "create_encoder(..., raw=True). Received: an encoder without it.",
            )

        def state(name, shape, dtype=None):
            return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

        size = (self.num_classes, self.embedding_size)
        self.mean, self.variance, self.spread = (state(name, size) for name in ("mean", "variance", "spread"))
        self.count = state("count", (self.num_classes,))
        self.epoch, self.measured = state("epoch", (), "int32"), state("measured", (), "int32")

    def loss(self, step, inner):
        labels, in_range = check_class_labels(step.labels, self.num_classes)
        raw = ops.cast(step.outputs["raw"], self.compute_dtype)
        noise = keras.random.normal(
            (self.copies, *ops.shape(raw)), dtype=self.compute_dtype, seed=self._draws.generator
        )
        copies = unit_rows(vary(raw, ops.take(self.spread, labels, axis=0), self._strength(), noise))
        embeddings = ops.cast(step.embeddings, self.compute_dtype)
        if self._compares:
            references = compare_with_copies(embeddings, step.labels, copies, self.copies)
            augmented = step.replaced(embeddings, references=references)
        else:
            rows = ops.concatenate([embeddings, copies], axis=0)
            augmented = step.replaced(rows, ops.tile(step.labels, (1 + self.copies,)))
        loss = ops.cond(self.measured > 0, lambda: inner(augmented), lambda: inner(step))
        return loss * ops.cast(in_range, loss.dtype)

    def _strength(self):
        if not self.fade:
            return self.strength
        progress = ops.cast(self.epoch, self.compute_dtype) / self.epochs
        factor = ops.convert_to_tensor(_FACTORS[-1][1], dtype=self.compute_dtype)
        for until, value in reversed(_FACTORS[:-1]):
            factor = ops.where(progress <= until, ops.cast(value, factor.dtype), factor)
        return self.strength * factor

    def start(self, context):
        if not self.start_epoch:
            self._estimate(context)

    def after_epoch(self, context, logs):
        self.epoch.assign_add(1)
        epoch = int(ops.convert_to_numpy(self.epoch))
        elapsed = epoch - self.start_epoch
        if elapsed >= 0 and elapsed % self.update_every == 0 and epoch < self.epochs:
            self._estimate(context)

    def _estimate(self, context):
        store = context.store
        raw = predict_rows(context.learner.encoder, store, np.arange(len(store)))["raw"]
        self.update(raw, store.labels)

    def update(self, embeddings, labels) -> None:
        """Update the class statistics from the raw embeddings `(M, D)` of all training images; enables the copies."""
        new = class_statistics(embeddings, labels, self.num_classes)
        before = ClassStatistics(*(ops.convert_to_numpy(v) for v in (self.mean, self.variance, self.count)))
        merged = merge_statistics(before, new, self.momentum)
        for variable, value in zip((self.mean, self.variance, self.count), merged, strict=True):
            variable.assign(value)
        spread = merged.variance
        if self.few_sample if self.few_sample is not None else self.num_classes > _MANY_CLASSES:
            names = ("neighbors", "beta", "gamma", "tau", "sigma_m", "sigma_cv", "distance_norm")
            # The running count grows with every pass, while the correction needs the size of the class.
            sized = merged._replace(items_seen=new.items_seen)
            spread = correct_variances(sized, **{name: getattr(self, name) for name in names}).variance
        self.spread.assign(np.maximum(spread, 0.0))
        self.measured.assign(1)

    def get_config(self):
        names = (
            "num_classes",
            "embedding_size",
            "epochs",
            "copies",
            "strength",
            "start_epoch",
            "update_every",
            "momentum",
            "few_sample",
            "neighbors",
            "beta",
            "gamma",
            "tau",
            "sigma_m",
            "sigma_cv",
            "distance_norm",
            "fade",
            "seed",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def vary(embeddings, variances, strength, noise):
    """Draw copies with the given variance around each row.

    Args:
        embeddings: `(N, D)` float tensor.
        variances: `(N, D)` variances of the class of each row; no gradient flows into them.
        strength: factor on the variances.
        noise: `(M, N, D)` standard normal noise.

    Returns:
        `(M * N, D)` float tensor, the first copy of all rows first.
    """
    stddev = ops.sqrt(strength * ops.stop_gradient(variances))
    return ops.reshape(embeddings + stddev * noise, (-1, embeddings.shape[1]))


def compare_with_copies(embeddings, labels, copies, draws: int) -> References:
    """References that compare each row with all rows and copies except itself and its own copies.

    Args:
        embeddings: `(N, D)` unit vectors.
        labels: `(N,)` integer tensor.
        copies: `(draws * N, D)` unit vectors, the first copy of all rows first.
        draws: number of copies of each row.
    """
    columns = ops.concatenate([embeddings, copies], axis=0)
    positives, negatives = (ops.tile(mask, (1, 1 + draws)) for mask in pair_masks(labels))
    distinct = dot_products(embeddings, columns) < _SAME
    return References(ops.logical_and(positives, distinct), negatives, columns, ops.tile(labels, (1 + draws,)))
