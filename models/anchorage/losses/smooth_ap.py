"""Smooth-AP: Brown et al., ECCV 2020, equation 8."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import dot_products, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.positives import sum_over_positives
from anchorage.pairs.steps import Step


@keras.saving.register_keras_serializable(package="anchorage")
class SmoothAPLoss(LossLayer):
    """Average precision of every item as a query, with sigmoids for the steps.

    Formula, with cosines `s` and `P_i` the class of i, i among them:

        R_ij  = 1 + sum_{k != j} sigma((s_ik - s_ij) / temperature)
        R+_ij = the same over k in P_i
        loss  = 1 - mean_i mean_{j in P_i} R+_ij / R_ij

    Classes may differ in size and stand in any order (pytorch-metric-learning wants equal blocks and is
    right only where there are as many classes as items in each).

    Defaults: 0.01, `SmoothAPLoss` of pytorch-metric-learning 2.9, which names no place.

    Args:
        temperature: width of the sigmoid, positive.
        normalize: bring the rows to unit length first.

    Returns:
        Scalar float32 tensor in [0, 1).

    Raises:
        ValueError: if `temperature <= 0` or the shapes do not fit together.

    Example:
        >>> loss = SmoothAPLoss()
        >>> round(float(loss(keras.ops.eye(2), keras.ops.array([0, 1]))), 4)  # each finds itself first
        0.0
    """

    def __init__(self, temperature: float = 0.01, normalize: bool = True, **kwargs):
        super().__init__(**kwargs)
        check_positive(temperature=temperature)
        self.temperature = temperature
        self.normalize = normalize

    def compute(self, embeddings, labels):
        rows = unit_rows(embeddings) if self.normalize else embeddings
        scores = dot_products(rows, rows)
        labels = ops.convert_to_tensor(labels)
        same = ops.cast(ops.equal(labels[:, None], labels[None, :]), scores.dtype)
        weight = 1.0 / (ops.sum(same, axis=1) * ops.cast(ops.shape(labels)[0], scores.dtype))

        step = Step(self.temperature, bounded=self.normalize)

        def measure(slot, prepared, others):
            sigmoid = step(prepared, slot.value)
            rank = 0.5 + slot.add_up(sigmoid)  # the positive itself counts 1, not the 1/2 of its sigmoid
            missing = slot.add_up(sigmoid * others)  # what ranks too high: in R, not in R+
            share = ops.where(slot.present, slot.take(weight), 0.0)
            scale = (share / ops.square(rank) / self.temperature)[:, None]
            # R+ - R [same] = R [other] - (R - R+)
            slope = sigmoid * (1.0 - sigmoid) * (scale * rank[:, None] * others - scale * missing[:, None])
            return (ops.sum(share * missing / rank),), slope - slot.here * slot.add_up(slope)[:, None]

        return sum_over_positives(scores, labels, measure, with_self=True, others=(step.of(scores), 1.0 - same))[0]
