"""Alternating projections onto feasible sets: Can, Gürbüz & Alatan, ICIP 2021."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative
from anchorage.methods._compared import NORMALIZERS, check_normalizer, check_pair_loss, compared
from anchorage.methods._weight_penalty import WeightPenalty
from anchorage.methods.method import Method


@keras.saving.register_keras_serializable(package="anchorage")
class AlternatingProjections(Method):
    """Compares the batch with one representative per class; a penalty keeps the weights near the previous solution.

    Requires the sampler `representative_batches`, whose batches start with one representative of each of their P
    classes; the representatives change every `lifetime` steps, the length of a projection. Formula in projection k,
    with `r` the P representatives, `x` the other rows, and `theta_k` the trainable weights of the encoder at its first
    step:

        loss = inner(r against x) + lam_k/2 ||theta - theta_k||^2,    lam_0 = 0,  lam_k = lam decay^k

    The representatives are the anchors of the loss; pairs among them and among the other rows are ignored. Needs memory
    for a second copy of the encoder weights.

    Args:
        num_representatives: P, at least 1; set from the sampler.
        lifetime: steps per projection, at least 1; set from the sampler.
        lam: strength of the penalty, at least 0.
        decay: factor on `lam` from one projection to the next, at least 0.
        normalizer: normalization of the embeddings: `"lipschitz"` scales those of norm above 1 to norm 1, `"unit"`
            scales all to norm 1, `"none"` keeps them.

    Raises:
        ValueError: if an argument is out of range.
        UsageError: if the loss is not over pairs or normalizes the embeddings itself.
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
        count, labels = self.num_representatives, step.labels
        value = inner(compared(step, rows[:count], labels[:count], rows[count:], labels[count:]))
        return value + self.held.penalty(strength)

    def get_config(self):
        names = ("num_representatives", "lifetime", "lam", "decay", "normalizer")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
