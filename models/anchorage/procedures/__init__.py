"""Procedures above a training, by the name used in experiment files: each makes one learner by several trainings."""

from collections.abc import Mapping
from typing import Any

from anchorage.procedures.class_folds import ClassFolds
from anchorage.procedures.procedure import Procedure, Task
from anchorage.procedures.pseudo_clusters import PseudoClusters
from anchorage.procedures.self_training import SelfTraining
from anchorage.procedures.weak_labels import WeakLabels
from anchorage.registry import create

PROCEDURES: dict[str, type[Procedure]] = {
    "class_folds": ClassFolds,
    "pseudo_clusters": PseudoClusters,
    "self_training": SelfTraining,
    "weak_labels": WeakLabels,
}


def create_procedure(section: Mapping[str, Any], **facts: Any) -> Procedure:
    """Make the procedure of an experiment.

    Args:
        section: `name`, a key of `PROCEDURES` or `"package.module:ClassName"` of a `Procedure`, and `params`.
        **facts: what a procedure may ask for: `seed`.

    Raises:
        UsageError: on an unknown name or parameter, or a missing one.
        ValueError: if the constructor refuses a value.
    """
    return create(PROCEDURES, section["name"], section.get("params"), facts, base=Procedure)


__all__ = ["PROCEDURES", "Procedure", "Task", "create_procedure"]
