"""Which rows make up a batch: samplers that are pure functions of seed and step, by the name an experiment file uses.

A sampler keeps no position: `batch(step)` gives the same rows whenever it is asked, so training resumes at any step
without saving anything. Samplers that look for classes near each other also go by where the classes lie now: these
centres are refreshed before the first step and after each epoch, and saved with the checkpoint.

With several replicas each takes its run of the rows of the same batch, dealt by `tf.distribute`; the loss sees them
joined again.
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
