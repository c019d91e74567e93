"""Update of embedding-aware samplers with current embeddings."""

import numpy as np

from anchorage.data.batches import is_refreshed
from anchorage.inference import named_outputs, predict_rows
from anchorage.methods import TrainingContext


def refresh_sampler(context: TrainingContext, step: int) -> bool:
    """Update a sampler with current embeddings of its probes; return False if it does not use embeddings.

    Args:
        context: context of the training.
        step: next step, counted from the start of the training.
    """
    learner, sampler = context.learner, context.sampler
    if not is_refreshed(sampler):
        return False
    outputs = predict_rows(learner, context.store, sampler.probes(step))
    sampler.update(np.asarray(named_outputs(outputs)["embeddings"], np.float32))
    return True
