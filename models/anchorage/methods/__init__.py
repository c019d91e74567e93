"""Training methods, which wrap a loss; `METHODS` maps the names used in experiment files to the classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from anchorage.methods.alternating_projections import AlternatingProjections
from anchorage.methods.chance_constrained_proxies import ChanceConstrainedProxies
from anchorage.methods.class_mean_start import ClassMeanStart
from anchorage.methods.densely_anchored_sampling import DenselyAnchoredSampling
from anchorage.methods.intra_class_augmentation import IntraClassAugmentation
from anchorage.methods.learned_concatenation import LearnedConcatenation
from anchorage.methods.listwise_self_distillation import ListwiseSelfDistillation
from anchorage.methods.method import Method, Step, TrainingContext
from anchorage.methods.moving_average import MovingAverage
from anchorage.methods.novel_class_generator import NovelClassGenerator
from anchorage.methods.proxy_synthesis import ProxySynthesis
from anchorage.methods.whitened_start import WhitenedStart
from anchorage.registry import create, find_class

METHODS: dict[str, type[Method]] = {
    "alternating_projections": AlternatingProjections,
    "chance_constrained_proxies": ChanceConstrainedProxies,
    "class_mean_start": ClassMeanStart,
    "densely_anchored_sampling": DenselyAnchoredSampling,
    "intra_class_augmentation": IntraClassAugmentation,
    "learned_concatenation": LearnedConcatenation,
    "listwise_self_distillation": ListwiseSelfDistillation,
    "moving_average": MovingAverage,
    "novel_class_generator": NovelClassGenerator,
    "proxy_synthesis": ProxySynthesis,
    "whitened_start": WhitenedStart,
}


def create_methods(sections: Sequence[Mapping[str, Any]], **facts: Any) -> list[Method]:
    """Create the methods of an experiment; the first is the outermost.

    Args:
        sections: mappings with `name`, a key of `METHODS` or `"package.module:ClassName"` of a `Method`, and optional
            `params`.
        **facts: values known at training time that a constructor may take: `num_classes`, `embedding_size`,
            `epochs`, `steps_per_epoch`, `seed`.

    Raises:
        UsageError: if a name or parameter is unknown or missing.
        ValueError: if a constructor rejects a value.
    """
    return [create(METHODS, section["name"], section.get("params"), facts, base=Method) for section in sections]


def need_raw(sections: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a method of the experiment needs the embeddings before L2 normalization.

    Raises:
        UsageError: if a name is unknown.
    """
    return any(find_class(METHODS, section["name"], Method).needs_raw for section in sections)  # type: ignore[attr-defined]


__all__ = [
    "METHODS",
    "AlternatingProjections",
    "ChanceConstrainedProxies",
    "ClassMeanStart",
    "DenselyAnchoredSampling",
    "IntraClassAugmentation",
    "LearnedConcatenation",
    "ListwiseSelfDistillation",
    "Method",
    "MovingAverage",
    "NovelClassGenerator",
    "ProxySynthesis",
    "Step",
    "TrainingContext",
    "WhitenedStart",
    "create_methods",
    "need_raw",
]
