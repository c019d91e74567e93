"""Builds what an experiment names before anything runs: a wrong name or value should not cost an hour."""

from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import AnchorageError, UsageError
from pipeline.config import Experiment, search_space
from pipeline.graph import training_settings

_CLASSES = 1_000_000  # stand-in for a number that only the data knows


def check_parts(experiment: Experiment) -> None:
    """Make all parts that the file names, at every end of a range, and look up the metrics.

    Raises:
        UsageError: the part's own, or E_EXPERIMENT_VALUE with the section that holds the wrong value.
    """
    from models.retrieval.metrics import parse_metric
    from models.tuning.space import corner_values, settle

    with _section("evaluation.metrics"):
        for name in experiment.evaluation.metrics:
            parse_metric(name)
    for values in corner_values(search_space(experiment)):
        _make_parts(experiment, settle(training_settings(experiment), values))


def _make_parts(experiment: Experiment, settings: dict) -> None:
    import numpy as np

    from models.data.batches import create_augmentation
    from models.data.sampling import SAMPLERS
    from models.encoders import create_encoder
    from models.losses import create_loss
    from models.methods import create_methods
    from models.procedures import create_procedure
    from models.registry import create
    from models.training.optimizers import create_optimizer

    encoder, loss, training = settings["encoder"], settings["loss"], settings["training"]
    with _section("encoder"):
        create_encoder(image_size=experiment.data.image_size, **{**encoder.pop("params"), **encoder})
    with _section("loss"):
        facts = {"num_classes": _CLASSES, "embedding_size": encoder["embedding_size"]}
        create_loss(loss["name"], loss["params"], **facts, class_counts=[2] * _CLASSES)
    with _section("training.sampler"):
        given = {"labels": np.repeat(np.arange(_CLASSES), 2), "seed": experiment.seed}
        sampler = create(SAMPLERS, training["sampler"]["name"], training["sampler"]["params"], given)
    with _section("training.methods"):
        facts |= getattr(sampler, "facts", {})
        create_methods(training["methods"], **facts, epochs=training["epochs"], steps_per_epoch=1, seed=0)
    if training["procedure"]:
        with _section("training.procedure"):
            create_procedure(training["procedure"], seed=0)
    with _section("training.optimizer"):
        optimizer = training["optimizer"]
        create_optimizer(
            optimizer["name"], optimizer["learning_rate"], optimizer["rate_factors"], **optimizer["params"]
        )
    with _section("training.augmentation"):
        create_augmentation(training["augmentation"])


@contextmanager
def _section(name: str) -> Iterator[None]:
    """Name the section in what a constructor says of its arguments."""
    try:
        yield
    except AnchorageError as error:
        raise UsageError(error.code, f"[{name}] {error.message}") from None
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        raise UsageError("E_EXPERIMENT_VALUE", f"[{name}] {' '.join(str(error).split())}") from None
