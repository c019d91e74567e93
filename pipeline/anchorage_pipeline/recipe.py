"""An experiment whose open values the recipe has chosen, for whoever needs to know them before the training."""

from collections.abc import Sequence

from anchorage_pipeline.config import Experiment
from anchorage_pipeline.graph import training_settings


def write_out(experiment: Experiment, counts: Sequence[int]) -> Experiment:
    """The experiment as if its author had written what the recipe chooses.

    Args:
        experiment: without ranges.
        counts: images of each training class.
    """
    from anchorage.training.recipes import choose_settings

    settings, _ = choose_settings(training_settings(experiment), counts)
    return Experiment.model_validate({**experiment.model_dump(mode="json"), **settings})


def explain_recipe(experiment: Experiment, counts: Sequence[int]) -> str:
    """What the recipe chooses for training classes of so many images, a line each; empty if all is written."""
    from anchorage.training.recipes import Facts, choose_settings, format_choices

    settings = training_settings(experiment)
    return format_choices(choose_settings(settings, counts)[1], Facts.of(settings["encoder"], counts))
