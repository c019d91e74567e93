"""Learning-rate schedules."""

import math
from collections.abc import Callable

import keras
from keras import ops

from anchorage.errors import UsageError

# Interpolation between the full rate (1) and the final rate (0) as a function of the decay's progress in [0, 1].
SHAPES: dict[str, Callable] = {
    "constant": lambda progress: 1.0 + 0.0 * progress,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + ops.cos(math.pi * progress)),
}


@keras.saving.register_keras_serializable(package="anchorage")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, followed by a decay to a share of the full learning rate.

    Formula, with `w` the warm-up steps, `T` all steps and `f` the final share:

        rate(step) = learning_rate (step + 1) / w                                for step < w
        rate(step) = learning_rate (f + (1 - f) shape((step - w) / (T - w)))     otherwise

    Args:
        learning_rate: full learning rate.
        total_steps: steps of the whole training; afterwards the rate is constant.
        shape: shape of the decay, a key of `SHAPES`.
        warmup_steps: steps until the full rate.
        final_share: share of the full rate at the end, in [0, 1].

    Raises:
        UsageError: E_NAME_UNKNOWN or E_SCHEDULE.

    Example:
        >>> rate = WarmupDecay(1.0, total_steps=12, shape="linear", warmup_steps=2, final_share=0.5)
        >>> [round(float(rate(step)), 2) for step in (0, 1, 2, 7, 12, 99)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.5]
    """

    def __init__(
        self,
        learning_rate: float,
        total_steps: int,
        shape: str = "linear",
        warmup_steps: int = 0,
        final_share: float = 0.0,
    ):
        if shape not in SHAPES:
            raise UsageError("E_NAME_UNKNOWN", f"Unknown schedule {shape!r}. Known: {sorted(SHAPES)}")
        if not 0 <= final_share <= 1:
            raise UsageError("E_SCHEDULE", f"`final_share` must lie in [0, 1]. Received: final_share={final_share}")
        if not 0 <= warmup_steps < total_steps:
            raise UsageError(
                "E_SCHEDULE",
                f"`warmup_steps` must be less than the {total_steps} steps of the training. "
                f"Received: warmup_steps={warmup_steps}",
            )
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.shape = shape
        self.warmup_steps = warmup_steps
        self.final_share = final_share

    def __call__(self, step):
        step = ops.cast(step, "float32")
        progress = ops.clip((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 0.0, 1.0)
        share = self.final_share + (1.0 - self.final_share) * SHAPES[self.shape](progress)
        if self.warmup_steps:
            share = ops.where(step < self.warmup_steps, (step + 1.0) / self.warmup_steps, share)
        return self.learning_rate * share

    def get_config(self):
        names = ("learning_rate", "total_steps", "shape", "warmup_steps", "final_share")
        return {name: getattr(self, name) for name in names}
