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

_MANY_CLASSES = 1000  # more than these: few items in each, in the authors' code
_SAME = 1.0 - 1e-5  # cosine from which on a positive teaches nothing
_FACTORS = ((0.4, 1.0), (0.6, 0.9), (0.8, 0.75), (1.0, 0.6))  # up to this share of the epochs: this factor


@keras.saving.register_keras_serializable(package="anchorage")
class IntraClassAugmentation(Method):
    """Gives a pair loss further positives and negatives, drawn around each embedding as its class varies.

    Formula, for embedding z of class y before it is brought to unit length, S the variance of class y by channel, f
    falling from 1 to 0.6 as the epochs go by, and e standard normal noise:

        z' = z + sqrt(strength f S_y) * e

    The anchors of the loss are the real rows. They are compared with the real rows and all `z'`, but for themselves and
    their own copies; positives at a cosine of 0.99999 or more are left out. A loss over proxies gets the copies
    as further items. Gradients flow through z into its copies, none into S.

    After `start_epoch` epochs of plain training, and again every `update_every` epochs, one pass over the training
    images measures mean and variance of each class. With few items in a class its variance is drawn towards those of
    similar classes and of all, see `anchorage.methods._class_statistics`. The authors' code computes that and
    does not use it; takes the root again for each further copy; and scales distances with the ones it leaves out.
    Here all three are as in the paper.

    Args:
        num_classes: number of training classes C.
        embedding_size: length D of an embedding.
        epochs: of the training, for the factor f.
        copies: made of each embedding (M in the paper), at least 1.
        strength: factor on the variance (lambda), at least 0; 0.5 to 0.8 in the paper.
        start_epoch: epochs of plain training first, below `epochs`; 30 of 100 in the authors' code.
        update_every: epochs from one measurement to the next, at least 1.
        momentum: how much the measurements before may weigh, in [0, 1].
        few_sample: whether to draw variances towards those of other classes; None for more than 1,000 classes.
        neighbors: similar classes that count (K), at least 1.
        beta: how fast a class is trusted more with each item, in [0, 1].
        gamma: share of all classes in what is drawn towards, in [0, 1].
        tau: items from which on a class is trusted alone, at least 0.
        sigma_m: width of the weights by squared means, positive.
        sigma_cv: width of the weights by variances, positive.
        distance_norm: `"minmax"` or `"none"`.
        fade: whether f falls, as in the authors' code alone; else it stays 1.
        seed: of the noise.

    Raises:
        ValueError: on a parameter out of range, or (eager calls) a label outside the classes.
        UsageError: E_METHOD_LOSS if the loss compares with nothing but the batch; E_METHOD_ENCODER if the encoder does
            not give embeddings as they are before unit length.
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
                "Expected a loss over pairs that can be told what to compare with, such as multi_similarity, "
                f"contrastive or triplet, or a loss with proxies. Received: {type(learner.loss_layer).__name__}",
            )
        outputs = getattr(learner.encoder, "output", None)
        if not isinstance(outputs, dict) or "raw" not in outputs:
            raise UsageError(
                "E_METHOD_ENCODER",
                "Expected an encoder that gives `raw` embeddings beside those of unit length: "
                "create_encoder(..., raw=True). Received: one that does not.",
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
            richer = step.replaced(
                embeddings, references=compare_with_copies(embeddings, step.labels, copies, self.copies)
            )
        else:
            rows = ops.concatenate([embeddings, copies], axis=0)
            richer = step.replaced(rows, ops.tile(step.labels, (1 + self.copies,)))
        loss = ops.cond(self.measured > 0, lambda: inner(richer), lambda: inner(step))
        return loss * ops.cast(in_range, loss.dtype)

    def _strength(self):
        if not self.fade:
            return self.strength
        done = ops.cast(self.epoch, self.compute_dtype) / self.epochs
        factor = ops.convert_to_tensor(_FACTORS[-1][1], dtype=self.compute_dtype)
        for until, value in reversed(_FACTORS[:-1]):
            factor = ops.where(done <= until, ops.cast(value, factor.dtype), factor)
        return self.strength * factor

    def start(self, context):
        if not self.start_epoch:
            self._measure(context)

    def after_epoch(self, context, logs):
        self.epoch.assign_add(1)
        epoch = int(ops.convert_to_numpy(self.epoch))
        since = epoch - self.start_epoch
        if since >= 0 and since % self.update_every == 0 and epoch < self.epochs:
            self._measure(context)

    def _measure(self, context):
        store = context.store
        raw = predict_rows(context.learner.encoder, store, np.arange(len(store)))["raw"]
        self.update(raw, store.labels)

    def update(self, embeddings, labels) -> None:
        """Take in the raw embeddings `(M, D)` of all training images, and from now on give the loss copies."""
        new = class_statistics(embeddings, labels, self.num_classes)
        before = ClassStatistics(*(ops.convert_to_numpy(v) for v in (self.mean, self.variance, self.count)))
        merged = merge_statistics(before, new, self.momentum)
        for variable, value in zip((self.mean, self.variance, self.count), merged, strict=True):
            variable.assign(value)
        spread = merged.variance
        if self.few_sample if self.few_sample is not None else self.num_classes > _MANY_CLASSES:
            names = ("neighbors", "beta", "gamma", "tau", "sigma_m", "sigma_cv", "distance_norm")
            # The running count grows with every pass; what tells a small class is how many items it has.
            held = merged._replace(items_seen=new.items_seen)
            spread = correct_variances(held, **{name: getattr(self, name) for name in names}).variance
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
    """Copies with the given variance around each row, all of the first draw before those of the second.

    Args:
        embeddings: `(N, D)`.
        variances: `(N, D)`, of each row's class; taken as constant.
        strength: factor on the variances.
        noise: `(M, N, D)`.
    """
    spread = ops.sqrt(strength * ops.stop_gradient(variances))
    return ops.reshape(embeddings + spread * noise, (-1, embeddings.shape[1]))


def compare_with_copies(embeddings, labels, copies, draws: int) -> References:
    """Each row against all rows and all copies, but for itself and its own.

    Args:
        embeddings: `(N, D)` unit rows.
        labels: `(N,)` integers.
        copies: `(draws * N, D)` unit rows, draw after draw.
        draws: copies of each row.
    """
    columns = ops.concatenate([embeddings, copies], axis=0)
    positives, negatives = (ops.tile(mask, (1, 1 + draws)) for mask in pair_masks(labels))
    apart = dot_products(embeddings, columns) < _SAME
    return References(ops.logical_and(positives, apart), negatives, columns, ops.tile(labels, (1 + draws,)))
