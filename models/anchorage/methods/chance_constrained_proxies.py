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
_STREAM = 0xCC  # separates the random numbers of the pool from those of the batches


@keras.saving.register_keras_serializable(package="anchorage")
class ChanceConstrainedProxies(Method):
    """Adds proxies to a pair loss and solves a sequence of problems, each near the solution of the previous one.

    Formula in problem k, with encoder weights `theta`, the best weights `theta_k` of problem k - 1, and
    `proxies_per_class` trainable proxies per class:

        loss = pair_weight inner(batch against batch) + proxy_weight inner(batch against proxies)
               + lam_k/2 ||theta - theta_k||^2,       lam_0 = 0,  lam_k = lam decay^k

    A problem ends when MAP@R on the validation classes has not improved by `least_gain` for `patience` epochs.
    `theta_k` is then set to its best weights, while training continues from the last ones, and the proxies are reset to
    embeddings of training images: from `pool` random images per class, those that greedily maximize the distance to the
    best proxies of the class and to each other (`pick_centers`). The first proxies are chosen the same way, with old
    proxies at 0. Epochs should be short (25 to 250 steps in the paper), and early stopping should end the training.

    Needs memory for two copies of the encoder weights and one of the proxies; a new problem takes `pool` forward passes
    per class. The penalty excludes the proxies, which are not exported.

    Args:
        num_classes: number of training classes C.
        embedding_size: length D of an embedding.
        proxies_per_class: number of proxies per class K, at least 1.
        pool: random images per class, at least 1; below K it stands for `pool * K`, and 1 uses K random images
            directly as proxies.
        pair_weight: weight of the batch against itself, at least 0.
        proxy_weight: weight of the batch against the proxies, at least 0.
        lam: strength of the penalty from the second problem on, at least 0.
        decay: factor on `lam` from one problem to the next, at least 0.
        patience: epochs without improvement that end a problem, at least 1.
        least_gain: minimum improvement, at least 0.
        normalizer: normalization of embeddings and proxies: `"lipschitz"` scales those of norm above 1 to norm 1,
            `"unit"` scales all to norm 1, `"none"` keeps them.
        random_init: initialize the first proxies randomly.
        seed: of the random images.

    Raises:
        ValueError: if an argument is out of range.
        UsageError: if the loss is not over pairs or normalizes the embeddings itself; E_NO_VALIDATION without
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
        self.best_value = self._state("best_value", ())  # -1 if there is none yet
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
            self._reset_proxies(context)

    def after_epoch(self, context, logs):
        if _SCORE not in logs:
            raise UsageError(
                "E_NO_VALIDATION",
                "'chance_constrained_proxies' needs MAP@R on validation classes. Received: no validation classes. "
                "Train with a `validation_store`.",
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
        self._reset_proxies(context)

    def _reset_proxies(self, context) -> None:
        """Set the proxies to embeddings of training images, far from the best proxies of the previous problem."""
        count, pool = self.proxies_per_class, self.pool
        candidates = count if pool == 1 else pool if pool >= count else pool * count
        random = np.random.default_rng((_STREAM, self.seed, int(ops.convert_to_numpy(self.problem))))
        present, rows = draw_rows(context.store.labels, candidates, random)
        centers = embed_rows(context.learner.encoder, context.store, rows)
        shape = (self.num_classes, count, self.embedding_size)
        if pool > 1:
            old = ops.convert_to_numpy(self.best_proxies).reshape(shape)[present]
            picked = pick_centers(centers, old, count)
            centers = np.take_along_axis(centers, picked[:, :, None], axis=1)
        proxies = ops.convert_to_numpy(self.bank.proxies).reshape(shape).copy()
        proxies[present] = centers  # a class without images keeps its proxies
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
    """Draw rows of each class at random, with repetitions only once all rows of the class are drawn.

    Args:
        labels: `(M,)` integer class ids.
        count: rows to draw per class.
        random: random generator.

    Returns:
        `(C,)` classes that have rows, ascending, and `(C, count)` drawn rows.
    """
    present, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
    orders = [[random.permutation(rows) for _ in range(-(-count // len(rows)))] for rows in members]
    return present, np.array([np.concatenate(order)[:count] for order in orders], np.int64)


def pick_centers(candidates: np.ndarray, old: np.ndarray, count: int) -> np.ndarray:
    """Select candidates of each class by greedy k-centre clustering, seeded with its old proxies.

    Repeatedly selects the candidate with the largest Euclidean distance to the nearest old proxy or selected candidate;
    the first one on ties.

    Args:
        candidates: `(C, b, D)` embeddings.
        old: `(C, K, D)` old proxies, used for the distances only.
        count: number of candidates to select per class.

    Returns:
        `(C, count)` indices of the candidates.

    Example:
        >>> pool = np.array([[[0.0], [1.0], [3.0]]])
        >>> pick_centers(pool, old=np.zeros((1, 1, 1)), count=2).tolist()
        [[2, 1]]
    """
    distances = [_squared_distances(candidates, old[:, k, None]) for k in range(old.shape[1])]
    nearest = np.stack(distances).min(axis=0)
    picked = np.empty((len(candidates), count), np.int64)
    classes = np.arange(len(candidates))
    for k in range(count):
        picked[:, k] = np.argmax(nearest, axis=1)
        nearest = np.minimum(nearest, _squared_distances(candidates, candidates[classes, picked[:, k], None]))
    return picked


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(np.square(a - b), axis=-1, dtype=a.dtype)
