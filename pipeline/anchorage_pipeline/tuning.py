"""The hyperparameter search of an experiment: its section, what is wrong with it, and what it will try."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from anchorage.training.settings import Sections
from anchorage.tuning.ranges import Range, grid_size
from anchorage.tuning.settings import TuningSettings
from anchorage_pipeline.values import Epochs, NonNegative, Params, Section, search_space

if TYPE_CHECKING:
    from anchorage_pipeline.config import Experiment


class Tuning(Section):
    """The hyperparameter search, which runs if the file contains ranges or choices."""

    oracle: Literal["random", "grid", "hyperband", "bayesian", "coordinate"] = "random"
    """Search algorithm: "random", "grid", "hyperband", "bayesian", or "coordinate", one range at a time."""
    params: Params = {}
    """Further arguments of the algorithm, such as `points` of "coordinate" and `factor` of "hyperband"."""
    trials: Annotated[int, Field(gt=0, le=100_000)] = TuningSettings.trials
    """Largest number of trials."""
    minutes: NonNegative = TuningSettings.minutes
    """Wall time after which no further trial starts; 0 is no limit."""
    epochs: Epochs = TuningSettings.epochs
    """Epochs per trial; "hyperband" grants them to its best trials only."""
    folds: Annotated[int, Field(ge=0, le=100)] = TuningSettings.folds
    """Folds of the training classes, over which a trial's MAP@R is averaged; 0 takes that of the validation classes."""
    stop_early: bool = TuningSettings.stop_early
    """Whether a trial below the median of the others stops; never under "hyperband"."""
    repeats: Annotated[int, Field(ge=0, le=1_000)] = TuningSettings.repeats
    """Trainings with the best values and new seeds, after the search, for an interval of their score."""
    tuner_fn: Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")] = "anchorage_components.tuner.tuner_fn"
    """Function that makes the tuner, as TFX calls it; a function of your own gets the keys of this section, too."""

    @property
    def settings(self) -> TuningSettings:
        """The settings of the search."""
        return TuningSettings(**self.model_dump(exclude={"tuner_fn"}))


def check_search(experiment: "Experiment", space: Sequence[Range], sections: Sections) -> None:
    """Make what the search needs: its algorithm with the parameters, and a function of the user's own.

    Args:
        experiment: the experiment.
        space: its ranges; nothing is made without any.
        sections: gets to see errors with the path of their section.
    """
    from anchorage.registry import import_named
    from anchorage.tuning.oracles import create_oracle

    if not space:
        return
    tuning = experiment.tuning
    with sections.at("tuning.params"):
        create_oracle(space, tuning.settings, experiment.seed)
    with sections.at("tuning.tuner_fn"):
        import_named(":".join(tuning.tuner_fn.rsplit(".", 1)))


def describe_search(experiment: "Experiment") -> list[str]:
    """Describe the budget and the ranges with their conditions, one per line; empty if there is nothing to search."""
    space, tuning = search_space(experiment), experiment.tuning
    if not space:
        return []
    minutes = f" and {tuning.minutes:g} minutes" if tuning.minutes else ""
    target = f"the mean over {tuning.folds} folds of the training classes" if tuning.folds else "the validation classes"
    width = max(len(item.path) for item in space)
    lines = [
        f"search   {tuning.oracle}, at most {tuning.trials} trials{minutes} of {tuning.epochs} epochs, for map@r on "
        f"{target}; {grid_size(space):,} grid points"
    ]
    for item in space:
        condition = item.condition
        when = f", if {condition.path} = {condition.value}" if condition else ""
        lines.append(f"range    {item.path:<{width}}  {item}{when}")
    return lines
