"""Metric learning with chance constraints: Gürbüz, Can & Alatan, arXiv 2209.09060, and its published code."""

import keras
import numpy as np
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative, check_positive
from anchorage.errors import UsageError
from anchorage.inference import embed_rows
from anchorage.methods._compared import NORMALIZERS, check_normalizer, check_pair_loss, compared
from anchorage.methods._weight_penalty import WeightPenalty
from anchorage.methods.method import Method
from anchorage.proxies.bank import ProxyBank

_SCORE = "val_map@r"
_STREAM = 0xCC  # tells the draws of the pool from those of the batches


@keras.saving.register_keras_serializable(package="anchorage")
class ChanceConstrainedProxies(Method):
    """Solves one problem with proxies after another, each near the solution of the one before.

    Formula in problem k, for encoder weights `theta`, the weights `theta_k` that were best in problem k - 1, and
    `proxies_per_class` trainable proxies of every class:

        loss = pair_weight inner(batch against batch) + proxy_weight inner(batch against proxies)
               + lam_k/2 ||theta - theta_k||^2,       lam_0 = 0,  lam_k = lam decay^k

    A problem ends when MAP@R on the validation classes was not better by `least_gain` for `patience` epochs. Then
    `theta_k` becomes its best weights, while training goes on from the last ones, and the proxies become embeddings
    of training images: of `pool` drawn for each class those that, one after the other, lie farthest from the class's
    old proxies and from each other (`pick_centers`). Proxies start that way too, from old ones at 0.
    An epoch should be short (25 to 250 steps in the paper), and the training should end by its own patience.

    Beside the proxies it keeps two copies of the encoder's weights and one of the proxies; a new problem costs
    `pool` forward passes a class. Proxies are not held by the penalty and not exported.

    Args:
        num_classes: number of training classes C.
        embedding_size: length D of an embedding.
        proxies_per_class: K, at least 1.
        pool: images drawn for each class, at least 1. Fewer than K stand for `pool * K`; a pool of 1 takes K
            images as they are drawn.
        pair_weight: of the batch against itself, at least 0.
        proxy_weight: of the batch against the proxies, at least 0.
        lam: strength of the penalty from the second problem on, at least 0.
        decay: factor on it from one problem to the next, at least 0.
        patience: epochs without a better value after which a problem ends, at least 1.
        least_gain: how much better a value must be, at least 0.
        normalizer: what is done to embeddings and proxies: `"lipschitz"` shortens those longer than 1 to
            length 1, `"unit"` gives all of them that length, `"none"` does nothing.
        random_init: start from random proxies.
        seed: of what is drawn.

    Raises:
        ValueError: on a parameter out of range.
        UsageError: with a loss that is not over pairs or that normalises by itself; E_NO_VALIDATION without
            validation classes.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        proxies_per_class: int = 4,
        pool: int = 7,
        pair_weight: float = 0.1,
        proxy_weight: float = 1.0,
        lam: float = 2e-4,
        decay: float = 1.0,
        patience: int = 3,
        least_gain: float = 1e-5,
        normalizer: str = "lipschitz",
        random_init: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(proxies_per_class=proxies_per_class, pool=pool, patience=patience)
        check_not_negative(
            pair_weight=pair_weight, proxy_weight=proxy_weight, lam=lam, decay=decay, least_gain=least_gain
        )
        check_positive(weight=pair_weight + proxy_weight)
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.proxies_per_class = proxies_per_class
        self.pool = pool
        self.pair_weight = pair_weight
        self.proxy_weight = proxy_weight
        self.lam = lam
        self.decay = decay
        self.patience = patience
        self.least_gain = least_gain
        self.normalizer = check_normalizer(normalizer)
        self.random_init = random_init
        self.seed = seed
        self.bank = ProxyBank(num_classes, proxies_per_class, dtype=self.dtype_policy, name="proxy_bank")

    def prepare(self, learner):
        check_pair_loss(learner, self.normalizer)
        self.bank.build((None, self.embedding_size))
        self.bank.built = True
        self.best_proxies = self._state("best_proxies", self.bank.proxies.shape)
        self.best = WeightPenalty(learner.encoder.trainable_variables, name="best", dtype=self.dtype_policy)
        self.held = WeightPenalty(learner.encoder.trainable_variables, name="held", dtype=self.dtype_policy)
        self.problem = self._state("problem", (), "int32")
        self.waited = self._state("waited", (), "int32")
        self.best_value = self._state("best_value", ())  # -1 stands for none yet
        self.best_value.assign(-1.0)
        self.strength = self._state("strength", ())

    def loss(self, step, inner):
        normalize = NORMALIZERS[self.normalizer]
        rows = normalize(step.embeddings)
        total = self.held.penalty(self.strength)
        if self.pair_weight:
            total = total + self.pair_weight * inner(step.replaced(rows))
        if self.proxy_weight:
            others = normalize(ops.convert_to_tensor(self.bank.proxies))
            total = total + self.proxy_weight * inner(compared(step, rows, step.labels, others, self._proxy_labels()))
        return total

    def start(self, context):
        if not self.random_init:
            self._place(context)

    def after_epoch(self, context, logs):
        if _SCORE not in logs:
            raise UsageError(
                "E_NO_VALIDATION",
                "'chance_constrained_proxies' ends a problem by MAP@R on validation classes. Received: no validation "
                "classes. Train with a `validation_store`.",
            )
        value, best = float(logs[_SCORE]), float(ops.convert_to_numpy(self.best_value))
        if value > best + self.least_gain or best < 0:
            self.best_value.assign(value)
            self.waited.assign(0)
            self.best.take()
            self.best_proxies.assign(self.bank.proxies)
            return
        self.waited.assign_add(1)
        if int(ops.convert_to_numpy(self.waited)) >= self.patience:
            self._next_problem(context)

    def _next_problem(self, context) -> None:
        problem = int(ops.convert_to_numpy(self.problem)) + 1
        self.problem.assign(problem)
        self.waited.assign(0)
        self.best_value.assign(-1.0)
        self.strength.assign(self.lam * self.decay**problem)
        self.held.take_over(self.best)
        self._place(context)

    def _place(self, context) -> None:
        """Put the proxies on embeddings of training images, away from the best ones of the problem that ended."""
        count, pool = self.proxies_per_class, self.pool
        drawn = count if pool == 1 else pool if pool >= count else pool * count
        random = np.random.default_rng((_STREAM, self.seed, int(ops.convert_to_numpy(self.problem))))
        present, rows = draw_rows(context.store.labels, drawn, random)
        centers = embed_rows(context.learner.encoder, context.store, rows)
        shape = (self.num_classes, count, self.embedding_size)
        if pool > 1:
            old = ops.convert_to_numpy(self.best_proxies).reshape(shape)[present]
            picked = pick_centers(centers, old, count)
            centers = np.take_along_axis(centers, picked[:, :, None], axis=1)
        proxies = ops.convert_to_numpy(self.bank.proxies).reshape(shape).copy()
        proxies[present] = centers  # a class without images keeps its own
        self.bank.proxies.assign(proxies.reshape(self.bank.proxies.shape))

    def _proxy_labels(self):
        return ops.repeat(ops.arange(self.num_classes, dtype="int32"), self.proxies_per_class)

    def _state(self, name, shape, dtype=None):
        return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    def get_config(self):
        names = (
            *("num_classes", "embedding_size", "proxies_per_class", "pool", "pair_weight", "proxy_weight", "lam"),
            *("decay", "patience", "least_gain", "normalizer", "random_init", "seed"),
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def draw_rows(labels: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each class in random order; a class that is used up starts again in another order.

    Args:
        labels: `(M,)` integer class ids.
        count: rows of each class.
        random: what draws.

    Returns:
        `(C,)` the classes that have rows, ascending, and `(C, count)` their rows.
    """
    present, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
    rounds = [[random.permutation(own) for _ in range(-(-count // len(own)))] for own in members]
    return present, np.array([np.concatenate(orders)[:count] for orders in rounds], np.int64)


def pick_centers(candidates: np.ndarray, old: np.ndarray, count: int) -> np.ndarray:
    """Greedy k-centre: of each class the candidates that cover it, seeded with its old proxies.

    Takes `count` times the candidate farthest from the nearest of old proxies and those taken before, by Euclidean
    distance; the first of several equally far.

    Args:
        candidates: `(C, b, D)` embeddings.
        old: `(C, K, D)` embeddings; they only keep the new ones away.
        count: how many of each class.

    Returns:
        `(C, count)` places among the candidates.

    Example:
        >>> pool = np.array([[[0.0], [1.0], [3.0]]])
        >>> pick_centers(pool, old=np.zeros((1, 1, 1)), count=2).tolist()
        [[2, 1]]
    """
    gaps = np.stack([_squares(candidates, old[:, place, None]) for place in range(old.shape[1])]).min(axis=0)
    picked = np.empty((len(candidates), count), np.int64)
    classes = np.arange(len(candidates))
    for place in range(count):
        picked[:, place] = np.argmax(gaps, axis=1)
        gaps = np.minimum(gaps, _squares(candidates, candidates[classes, picked[:, place], None]))
    return picked


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(np.square(a - b), axis=-1, dtype=a.dtype)
