"""Early stopping."""

import math
from collections.abc import Mapping, Sequence

_LEAST = 3  # least number of epochs before a training is stopped for staying below its start
_SHARE = 0.25  # least share of all epochs before that


def reason_to_stop(
    history: Sequence[Mapping[str, float]],
    *,
    monitor: str,
    epochs: int,
    patience: int = 0,
    waited: int = 0,
    warm_up: int = 0,
    keep_start: bool = True,
) -> str:
    """Return the reason to end a training now, as a sentence; empty if it should continue.

    A training ends when `patience` is exhausted, or when it stays below its start: a quarter of its epochs (at least
    three) after the warm-up, no epoch has been as good as the network before the first step, and at the rate of these
    epochs the last epoch would not be, either.

    Args:
        history: one row per epoch so far, from epoch 0, the network before the first step.
        monitor: validation metric, such as `"map@r"`.
        epochs: number of epochs of the whole training.
        patience: epochs without improvement after which to stop; 0 for no limit.
        waited: epochs since the best value.
        warm_up: epochs in which the learning rate still rises or weights are frozen; they are ignored.
        keep_start: whether epoch 0 can be the best epoch.
    """
    done = len(history) - 1
    if not 0 < done < epochs:
        return ""
    if 0 < patience <= waited:
        return f"stopped after epoch {done} of {epochs}: {monitor} has not improved for {waited} epochs."
    values = [row.get(f"val_{monitor}", math.nan) for row in history]
    start, trained, after_warm_up = values[0], values[1:], values[1 + warm_up :]
    trial = max(_LEAST, math.ceil(_SHARE * epochs))
    if not keep_start or len(after_warm_up) < trial or not max(trained) < start:
        return ""
    slope = (after_warm_up[-1] - after_warm_up[-trial]) / (trial - 1)
    if after_warm_up[-1] + slope * (epochs - done) >= start:
        return ""
    return (
        f"stopped after epoch {done} of {epochs}: {monitor} on the validation classes was {start:.1%} before the first "
        f"step and at most {max(trained):.1%} since, so the network before training is kept. Leave loss and "
        "optimizer to the recipe if the experiment sets them; otherwise lower the learning rate, or freeze the trunk "
        "for longer (`training.optimizer.frozen_steps`)."
    )
