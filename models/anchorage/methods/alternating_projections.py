"""Alternating projections onto feasible sets: Can, Gürbüz & Alatan, ICIP 2021."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative
from anchorage.methods._compared import NORMALIZERS, check_normalizer, check_pair_loss, compared
from anchorage.methods._weight_penalty import WeightPenalty
from anchorage.methods.method import Method


@keras.saving.register_keras_serializable(package="anchorage")
class AlternatingProjections(Method):
    """Compares only with one chosen item a class, holds on to where it began, and goes on with other chosen items.

    Needs the sampler `representative_batches`, whose batches begin with one item of each of their P classes, the same
    one for `lifetime` steps. Formula in projection k, with `r` those P rows, `x` all others, and `theta_k` the
    encoder's trainable weights at the first step of the projection:

        loss = inner(r against x) + lam_k/2 ||theta - theta_k||^2,    lam_0 = 0,  lam_k = lam decay^k

    The P rows are the anchors of the loss. Pairs among them, and among the others, do not count. A second copy of the
    encoder's weights is kept in memory.

    Args:
        num_representatives: P; the sampler knows it.
        lifetime: steps of a projection; the sampler knows it.
        lam: strength of the penalty, at least 0.
        decay: factor on it from one projection to the next, at least 0.
        normalizer: what is done to the embeddings: `"lipschitz"` shortens those longer than 1 to length 1,
            `"unit"` gives all of them that length, `"none"` does nothing.

    Raises:
        ValueError: on a parameter out of range.
        UsageError: with a loss that is not over pairs, or that normalises by itself.
    """

    def __init__(
        self,
        num_representatives: int,
        lifetime: int,
        lam: float = 2e-4,
        decay: float = 1.0,
        normalizer: str = "lipschitz",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(num_representatives=num_representatives, lifetime=lifetime)
        check_not_negative(lam=lam, decay=decay)
        self.num_representatives = num_representatives
        self.lifetime = lifetime
        self.lam = lam
        self.decay = decay
        self.normalizer = check_normalizer(normalizer)

    def prepare(self, learner):
        check_pair_loss(learner, self.normalizer)
        self.held = WeightPenalty(learner.encoder.trainable_variables, name="held", dtype=self.dtype_policy)
        self.steps = self.add_weight(
            name="steps",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )

    def loss(self, step, inner):
        self.held.take(when=ops.equal(self.steps % self.lifetime, 0))
        projection = ops.cast(self.steps // self.lifetime, self.compute_dtype)
        strength = ops.where(projection > 0, self.lam * ops.power(float(self.decay), projection), 0.0)
        self.steps.assign_add(1)
        rows = NORMALIZERS[self.normalizer](step.embeddings)
        first, labels = self.num_representatives, step.labels
        value = inner(compared(step, rows[:first], labels[:first], rows[first:], labels[first:]))
        return value + self.held.penalty(strength)

    def get_config(self):
        names = ("num_representatives", "lifetime", "lam", "decay", "normalizer")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
