"""Manifold proxy loss: Aziere & Todorovic, CVPR 2019, with the random walks of Zhou et al., NeurIPS 2003."""

import keras
from keras import ops

from anchorage.checks import check_not_negative
from anchorage.geometry import cosine_similarities, masked_logsumexp, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.proxies.bank import ProxyBank
from anchorage.seeds import SavedSeedGenerator


@keras.saving.register_keras_serializable(package="anchorage")
class ManifoldLoss(LossLayer):
    """Ranks proxies by random walks on a graph of all embeddings and proxies.

    Formula, with `s` the cosines of all embeddings and proxies:

        W = exp(2 max(0, s)) with zero diagonal and row sums D,   S = D^-1/2 W D^-1/2
        F = (1 - alpha) (I - alpha S)^-1
        intrinsic = mean_i log(1 + sum_{k != c_i, l_ik >= 0} exp(l_ik)),   l_ik = F_ik - F_ic_i + margin
        loss = intrinsic + lambda_c context

    for embeddings i, proxies k and c_i the proxy assigned to i; context is intrinsic with the cosines of the rows of F
    in place of F.

    Defaults: `ManifoldLoss` of pytorch-metric-learning 2.9, which cites no source.

    Args:
        num_proxies: number of proxies, at least 2.
        lambda_c: weight of the context term, at least 0.
        alpha: probability of continuing the walk, in [0, 1).
        margin: desired lead of the assigned proxy, at least 0.
        assignment: `"random"` assigns a random proxy to every embedding at each call (the paper's use without
            labels); `"labels"` assigns proxy c to class c, for labels in `0 .. num_proxies - 1`.
        seed: of the random assignment.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Call arguments:
        labels: `(N,)` integer tensor of class ids; validated but not used with `assignment="random"`.

    Returns:
        Non-negative float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

    Example:
        >>> loss = ManifoldLoss(num_proxies=3, assignment="labels")
        >>> bool(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])) >= 0)
        True
    """

    def __init__(
        self,
        num_proxies: int = 50,
        lambda_c: float = 1.0,
        alpha: float = 0.8,
        margin: float = 5e-4,
        assignment: str = "random",
        seed: int = 0,
        reducer: Reducer = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_proxies < 2:
            raise ValueError(f"`num_proxies` must be at least 2. Received: num_proxies={num_proxies}")
        check_not_negative(lambda_c=lambda_c, margin=margin)
        if not 0 <= alpha < 1:
            raise ValueError(f"`alpha` must lie in [0, 1). Received: alpha={alpha}")
        if assignment not in ("random", "labels"):
            raise ValueError(f"`assignment` must be 'random' or 'labels'. Received: assignment={assignment!r}")
        self.num_proxies = num_proxies
        self.lambda_c = lambda_c
        self.alpha = alpha
        self.margin = margin
        self.assignment = assignment
        self.seed = seed
        self.reducer = check_any_reducer(reducer)
        self.bank = ProxyBank(num_proxies, stddev=1.0, dtype=self.dtype_policy)
        self._draws = SavedSeedGenerator(seed)

    @property
    def proxies(self):
        """The `(num_proxies, D)` weight."""
        return self.bank.proxies

    @property
    def label_range(self):
        return self.num_proxies if self.assignment == "labels" else None

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels):
        size = ops.shape(embeddings)[0]
        if self.assignment == "labels":
            assigned = labels
        else:
            assigned = keras.random.randint((size,), 0, self.num_proxies, dtype="int32", seed=self._draws.generator)
        ranks = self._walk(ops.concatenate([unit_rows(embeddings), unit_rows(self.proxies)], axis=0))
        intrinsic = self._rank_costs(ranks[:size, size:], assigned)
        context = self._rank_costs(cosine_similarities(ranks[:size], ranks[size:]), assigned)
        costs = intrinsic + self.lambda_c * context
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)

    def _walk(self, rows):
        """`F` of the formula."""
        similarities = ops.matmul(rows, ops.transpose(rows))
        identity = ops.eye(ops.shape(rows)[0], dtype=rows.dtype)
        edges = ops.exp(2.0 * ops.relu(similarities)) * (1.0 - identity)
        scale = ops.rsqrt(ops.maximum(ops.sum(edges, axis=1), 1e-12))
        return (1.0 - self.alpha) * ops.inv(identity - self.alpha * scale[:, None] * edges * scale[None, :])

    def _rank_costs(self, ranks, assigned):
        gaps = ranks - ops.take_along_axis(ranks, assigned[:, None], axis=1) + self.margin
        others = ops.arange(self.num_proxies, dtype="int32")[None, :] != assigned[:, None]
        counted = ops.logical_and(others, gaps >= 0)
        costs = ops.softplus(masked_logsumexp(gaps, counted, axis=1))
        return ops.where(ops.any(counted, axis=1), costs, 0.0)
