"""Proxy Synthesis: Gu, Ko & Kim, AAAI 2021."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_between, check_positive
from anchorage.geometry import unit_rows
from anchorage.labels import check_class_labels
from anchorage.methods._novel_classes import check_takes_novel_classes, with_novel_classes
from anchorage.methods.method import Method
from anchorage.seeds import SavedSeedGenerator

_SHORTEST = 1e-6  # a mix of opposite rows has no direction


@keras.saving.register_keras_serializable(package="anchorage")
class ProxySynthesis(Method):
    """Gives a loss with proxies further classes, each a mix of two neighbouring rows and of their proxies.

    Formula, on unit vectors, for the first `floor(ratio N)` rows i of the shuffled batch, row 0 after the last:

        embedding_i = l x_i + (1 - l) x_{i-1}        proxy_i = l p_{y_i} + (1 - l) p_{y_{i-1}}

    with one l from Beta(alpha, alpha) for the batch; both are brought to unit length. Gradients flow into both
    parents and both parent proxies; the proxies of the loss itself stay as many as they are.

    For losses that take `novel_proxies`, with one proxy a class; not for pairs. How many classes there will be hangs
    on the labels, so a step is not compiled by XLA.

    Args:
        num_classes: number of training classes.
        alpha: of the Beta distribution, positive.
        ratio: share of the rows that make a class (mu in the paper), in [0, 1].
        drop_same_class: leave out rows of the same class as the one before: they would put a second proxy where
            their class has one. The authors' code asks for batches without such neighbours instead.
        shuffle: mix in a new order each step; batches made class by class have few neighbours of two classes.
        seed: of what is drawn.

    Raises:
        ValueError: on a parameter out of range, or (eager calls) a label outside the classes.
        UsageError: E_METHOD_LOSS if the loss cannot take novel classes.
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
        self._proxies = lambda: learner.loss_layer.proxies  # a layer kept here would be saved a second time

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
        """Draws from the Beta distribution."""
        return keras.random.beta(shape, self.alpha, self.alpha, dtype=self.compute_dtype, seed=self._draws.generator)

    def get_config(self):
        names = ("num_classes", "alpha", "ratio", "drop_same_class", "shuffle", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def mix_neighbors(embeddings, labels, proxies, mixing, ratio: float = 1.0, drop_same_class: bool = True):
    """Mix each row with the one before it, and their proxies alike.

    Args:
        embeddings: `(N, D)`.
        labels: `(N,)` integers, rows of `proxies`.
        proxies: `(C, D)`.
        mixing: share of the row itself, in [0, 1].
        ratio: share of the rows that are mixed, from the first.
        drop_same_class: leave out rows of the class of the row before.

    Returns:
        Pair of `(M, D)` embeddings and `(M, D)` proxies at unit length; a mix without a direction is left out.
    """
    count = ops.shape(labels)[0]
    mixes = []
    kept = ops.arange(1, count + 1) <= ops.cast(ops.floor(ratio * ops.cast(count, "float32") + 1e-4), "int32")
    if drop_same_class:
        kept = ops.logical_and(kept, labels != ops.roll(labels, 1))
    for rows in (unit_rows(embeddings), unit_rows(ops.take(proxies, labels, axis=0))):
        mixed = mixing * rows + (1.0 - mixing) * ops.roll(rows, 1, axis=0)
        kept = ops.logical_and(kept, ops.sum(ops.square(mixed), axis=1) >= _SHORTEST**2)
        mixes.append(mixed)
    places = ops.nonzero(kept)[0]
    return tuple(unit_rows(ops.take(mixed, places, axis=0)) for mixed in mixes)
