"""Resolve the values that an experiment leaves to the recipe, for callers that need them before training."""

from collections.abc import Sequence

from anchorage_pipeline.config import Experiment
from anchorage_pipeline.identity import training_settings


def write_out(experiment: Experiment, counts: Sequence[int]) -> Experiment:
    """Return the experiment with the recipe's choices filled in.

    Args:
        experiment: an experiment without ranges.
        counts: number of images of each training class.
    """
    from anchorage.training.recipes import choose_settings

    settings, _ = choose_settings(training_settings(experiment), counts)
    return Experiment.model_validate({**experiment.model_dump(mode="json"), **settings})
