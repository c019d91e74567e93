"""Tells a sampler where the classes lie now."""

import numpy as np

from anchorage.data.batches import is_refreshed
from anchorage.inference import named_outputs, predict_rows
from anchorage.methods import TrainingContext


def refresh_sampler(context: TrainingContext, step: int, batch_size: int = 256) -> bool:
    """Embed the items a sampler asks for with the network as it is; whether it asks for any.

    Args:
        context: the training.
        step: the one that comes next, counted from the start of the training.
        batch_size: images embedded at once.
    """
    learner, sampler = context.learner, context.sampler
    if not is_refreshed(sampler):
        return False
    outputs = predict_rows(learner, context.store, sampler.probes(step), batch_size)
    sampler.update(np.asarray(named_outputs(outputs)["embeddings"], np.float32))
    return True
