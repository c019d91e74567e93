"""Samplers, which choose the rows of each batch as a pure function of seed and step.

A sampler has no position: `batch(step)` always returns the same rows, so training resumes at any step without saved
state. Embedding-aware samplers also depend on class centers, which are updated before the first step and after each
epoch, and are saved in checkpoints.

With several replicas, `tf.distribute` splits the rows of a batch among them; the loss is computed on the whole batch.
"""

from anchorage.data.sampling.centred import CentredSampler
from anchorage.data.sampling.hierarchical import HierarchicalBatches
from anchorage.data.sampling.n_pair import NPairBatches
from anchorage.data.sampling.plain import ClassBatches, ShuffledBatches
from anchorage.data.sampling.representatives import RepresentativeBatches

SAMPLERS: dict[str, type] = {
    "class_batches": ClassBatches,
    "hierarchical_batches": HierarchicalBatches,
    "n_pair_batches": NPairBatches,
    "representative_batches": RepresentativeBatches,
    "shuffled_batches": ShuffledBatches,
}

__all__ = [
    "SAMPLERS",
    "CentredSampler",
    "ClassBatches",
    "HierarchicalBatches",
    "NPairBatches",
    "RepresentativeBatches",
    "ShuffledBatches",
]
