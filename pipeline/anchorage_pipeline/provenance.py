"""Provenance of a release, for its report and its manifest."""

from typing import Any

from anchorage_pipeline.config import Experiment
from anchorage_pipeline.encoders import describe_preset


def describe_run(experiment: Experiment, data_root: str) -> dict[str, Any]:
    """Return the provenance of a candidate as JSON values, but for the digests of the run.

    Args:
        experiment: the experiment.
        data_root: folder of the images.
    """
    source, card = experiment.source, experiment.card
    written = {"intended_use": card.intended_use, "limits": card.limitations, "license": card.license}
    return {
        **{name: value for name, value in written.items() if value},
        "experiment": experiment.computed(),
        "data_root": data_root,
        **({"command": source.command("run"), "experiment_file": source.text} if source else {}),
        **({"preset": describe_preset(experiment.encoder)} if experiment.encoder.preset else {}),
    }
