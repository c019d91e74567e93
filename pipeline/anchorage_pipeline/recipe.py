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


def explain_recipe(experiment: Experiment, counts: Sequence[int]) -> str:
    """List the recipe's choices for the given class sizes, one line each; empty if the experiment sets every value."""
    from anchorage.training.recipes import Facts, choose_settings, format_choices

    settings = training_settings(experiment)
    return format_choices(choose_settings(settings, counts)[1], Facts.of(settings["encoder"], counts))
