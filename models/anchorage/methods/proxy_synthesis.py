"""Proxy Synthesis: Gu, Ko & Kim, AAAI 2021."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_between, check_positive
from anchorage.geometry import unit_rows
from anchorage.labels import check_class_labels
from anchorage.methods._novel_classes import check_takes_novel_classes, with_novel_classes
from anchorage.methods.method import Method
from anchorage.seeds import SavedSeedGenerator

_MIN_NORM = 1e-6  # a mix of opposite vectors has no direction


@keras.saving.register_keras_serializable(package="anchorage")
class ProxySynthesis(Method):
    """Adds synthetic classes to a proxy loss by mixing pairs of embeddings and their proxies.

    Formula, on unit vectors, for the first `floor(ratio N)` rows i of the shuffled batch, with the last row before
    row 0:

        embedding_i = l x_i + (1 - l) x_{i-1}        proxy_i = l p_{y_i} + (1 - l) p_{y_{i-1}}

    with one l from Beta(alpha, alpha) per batch; both mixes are L2-normalized. Gradients flow into both parent
    embeddings and both parent proxies. The synthetic proxies last for one step.

    Requires a loss that takes `novel_proxies` and has one proxy per class, not a pair loss. The number of synthetic
    classes depends on the labels, so XLA cannot compile the step.

    Args:
        num_classes: number of training classes.
        alpha: parameter of the Beta distribution, positive.
        ratio: fraction of the rows that give a synthetic class (mu in the paper), in [0, 1].
        drop_same_class: skip pairs of the same class, whose mix would be a second proxy of that class. The authors'
            code expects batches without such pairs instead.
        shuffle: shuffle the batch first; batches sorted by class have few pairs of different classes.
        seed: of the order and the mixing weights.

    Raises:
        ValueError: if an argument is out of range or (eager calls) a label is out of range.
        UsageError: E_METHOD_LOSS if the loss does not accept novel classes.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.4,
        ratio: float = 1.0,
        drop_same_class: bool = True,
        shuffle: bool = True,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(num_classes=num_classes)
        check_positive(alpha=alpha)
        check_between(0, 1, ratio=ratio)
        self.num_classes = num_classes
        self.alpha = alpha
        self.ratio = ratio
        self.drop_same_class = drop_same_class
        self.shuffle = shuffle
        self.seed = seed
        self.supports_jit = False
        self._draws = SavedSeedGenerator(seed)

    def prepare(self, learner):
        check_takes_novel_classes(learner.loss_layer)
        self._proxies = lambda: learner.loss_layer.proxies  # Keras would save a layer in an attribute a second time

    def loss(self, step, inner):
        labels, in_range = check_class_labels(step.labels, self.num_classes)
        rows = ops.cast(step.embeddings, self.compute_dtype)
        if self.shuffle:
            order = keras.random.shuffle(ops.arange(ops.shape(labels)[0]), seed=self._draws.generator)
            rows, labels = ops.take(rows, order, axis=0), ops.take(labels, order)
        mixing = self.draw_mixing()
        proxies = ops.convert_to_tensor(self._proxies())
        rows, proxies = mix_neighbors(rows, labels, proxies, mixing, self.ratio, self.drop_same_class)
        novel = ops.arange(ops.shape(rows)[0], dtype="int32")
        loss = inner(with_novel_classes(step, self.num_classes, rows, novel, proxies))
        return loss * ops.cast(in_range, loss.dtype)

    def draw_mixing(self, shape=()):
        """Draw mixing weights from the Beta distribution."""
        return keras.random.beta(shape, self.alpha, self.alpha, dtype=self.compute_dtype, seed=self._draws.generator)

    def get_config(self):
        names = ("num_classes", "alpha", "ratio", "drop_same_class", "shuffle", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def mix_neighbors(embeddings, labels, proxies, mixing, ratio: float = 1.0, drop_same_class: bool = True):
    """Mix each embedding with the previous one, and their proxies likewise.

    Args:
        embeddings: `(N, D)` float tensor.
        labels: `(N,)` integer tensor in `0 .. C - 1`.
        proxies: `(C, D)` float tensor.
        mixing: weight of the row itself, in [0, 1].
        ratio: fraction of the rows to mix, from the first on.
        drop_same_class: skip rows with the class of the previous row.

    Returns:
        `(M, D)` embeddings and `(M, D)` proxies, L2-normalized; mixes of opposite vectors are skipped.
    """
    count = ops.shape(labels)[0]
    mixes = []
    kept = ops.arange(1, count + 1) <= ops.cast(ops.floor(ratio * ops.cast(count, "float32") + 1e-4), "int32")
    if drop_same_class:
        kept = ops.logical_and(kept, labels != ops.roll(labels, 1))
    for rows in (unit_rows(embeddings), unit_rows(ops.take(proxies, labels, axis=0))):
        mixed = mixing * rows + (1.0 - mixing) * ops.roll(rows, 1, axis=0)
        kept = ops.logical_and(kept, ops.sum(ops.square(mixed), axis=1) >= _MIN_NORM**2)
        mixes.append(mixed)
    index = ops.nonzero(kept)[0]
    return tuple(unit_rows(ops.take(mixed, index, axis=0)) for mixed in mixes)
