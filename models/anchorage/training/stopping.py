"""When a training should end before its last epoch."""

import math
from collections.abc import Mapping, Sequence

_LEAST = 3  # epochs that a training gets, however short it is
_SHARE = 0.25  # of all epochs


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
    """Why a training should end now, in a sentence; empty if it should go on.

    It ends when `patience` has run out, and when it does more harm than good: a quarter of its epochs (three at least)
    after the warm-up it has never been as good as before the first step, and would not be by the last epoch at the
    pace of these epochs.

    Args:
        history: a row for each epoch so far, from epoch 0, the network before the first step.
        monitor: the validation metric that decides, such as `"map@r"`.
        epochs: length of the whole training.
        patience: epochs without a better value after which to stop; 0 never does.
        waited: epochs since the best value.
        warm_up: epochs in which the rate still rises or weights are held still; they do not count against a training.
        keep_start: whether epoch 0 is something to fall back on.
    """
    done = len(history) - 1
    if not 0 < done < epochs:
        return ""
    if 0 < patience <= waited:
        return f"stopped after epoch {done} of {epochs}: {monitor} has not improved for {waited} epochs."
    values = [row.get(f"val_{monitor}", math.nan) for row in history]
    start, since, counted = values[0], values[1:], values[1 + warm_up :]
    trial = max(_LEAST, math.ceil(_SHARE * epochs))
    if not keep_start or len(counted) < trial or not max(since) < start:
        return ""
    pace = (counted[-1] - counted[-trial]) / (trial - 1)
    if counted[-1] + pace * (epochs - done) >= start:
        return ""
    return (
        f"stopped after epoch {done} of {epochs}: {monitor} on the validation classes was {start:.1%} before the first "
        f"step and {max(since):.1%} at best since, so the network before training is kept. Leave loss and "
        "optimizer to the recipe if the experiment names them; else lower the learning rate, or hold the trunk still "
        "for longer (`training.optimizer.frozen_steps`)."
    )
