"""Builds what an experiment names before anything runs: a wrong name or value should not cost an hour."""

import copy
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from anchorage.errors import UsageError
from anchorage.user_code import find_fault
from anchorage_pipeline.config import Experiment, read_document, search_space
from anchorage_pipeline.graph import locate_data, training_settings
from anchorage_pipeline.mistakes import format_mistakes, keys_of, mistakes_in
from anchorage_pipeline.own_parts import try_own_parts
from anchorage_pipeline.startup import load_keras

_CLASSES = 1_000_000  # stand-in for a number that only the data knows
_BUILT_CLASSES = 1_000  # the same where each takes memory


def check_file(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file, with `overrides` as for `load_experiment`, and make its parts.

    What can be told without Keras is told first: it takes most of the time. Stored weights of `keras.applications`
    are left where they are: fetching them can take minutes.

    Raises:
        UsageError: E_EXPERIMENT_MISSING, E_EXPERIMENT_SYNTAX, E_DATA_MISSING; E_EXPERIMENT naming every key and value
            that the schema refuses, metrics and loss that there are not, and missing data, or, if there are none of
            these, every other wrong name, parameter and value, with its path in the file.
    """
    experiment, mistakes = _drop_invalid(read_document(path, overrides))
    if experiment is not None:
        of_names = _wrong_names(experiment)
        # What the schema refused was taken out: that it is now missing is no mistake of its own.
        mistakes |= {key: text for key, text in of_names.items() if not any(_within(told, key) for told in mistakes)}
        try:
            locate_data(experiment)
        except UsageError as error:
            if not mistakes:
                raise
            mistakes.setdefault("data.path", error.message)
        if not mistakes:
            load_keras()
            mistakes = find_mistakes(experiment, load_weights=False)
    if experiment is None or mistakes:
        raise UsageError("E_EXPERIMENT", f"{path} has mistakes:\n{format_mistakes(mistakes)}")
    return experiment


def check_parts(experiment: Experiment) -> None:
    """Make all parts that the file names, at every end of a range, and look up the metrics.

    Raises:
        UsageError: E_EXPERIMENT naming every wrong name, parameter and value at once, with its path in the file.
    """
    if mistakes := find_mistakes(experiment):
        raise UsageError(
            "E_EXPERIMENT", f"the experiment {experiment.name!r} has mistakes:\n{format_mistakes(mistakes)}"
        )


def find_mistakes(experiment: Experiment, load_weights: bool = True) -> dict[str, str]:
    """Wrong names, parameters and values of the parts, by their path in the file.

    All names and parameters are looked up; of several wrong values of one part the first is told.
    """
    import numpy as np

    from anchorage.training.recipes import choose_settings
    from anchorage.tuning.ranges import apply_values, corner_values

    mistakes = _Mistakes(_wrong_names(experiment))
    for values in corner_values(search_space(experiment)):
        settings, _ = choose_settings(apply_values(training_settings(experiment), values), np.full(_CLASSES, 2))
        _make_parts(experiment, settings, load_weights, mistakes)
    return mistakes.found


def _wrong_names(experiment: Experiment) -> dict[str, str]:
    """Metrics and a loss that there are not; nothing heavy is loaded to look."""
    from anchorage.catalogue import check_name
    from anchorage.registry import nearest
    from anchorage.retrieval.metrics import METRICS, parse_metric

    mistakes = _Mistakes()
    for place, name in enumerate(experiment.evaluation.metrics):
        path = f"evaluation.metrics.{place}"
        with mistakes.at(path):
            parse_metric(name)
        if path in mistakes.found:
            mistakes.found[path] += f".{nearest(re.sub('@.*', '@k', name), METRICS)}"
    if experiment.loss is not None:
        with mistakes.at("loss.name"):
            check_name(experiment.loss.name)
    return mistakes.found


def _drop_invalid(document: dict[str, Any]) -> tuple[Experiment | None, dict[str, str]]:
    """The experiment without what the schema refuses, and the mistakes; None if they cannot be taken out.

    What a file cannot do without is made up where it is missing or wrong.
    """
    document = copy.deepcopy(document)
    mistakes: dict[str, str] = {}
    while True:
        try:
            return Experiment.model_validate(document), mistakes
        except ValidationError as error:
            found = mistakes_in(error, Experiment)
            if found.keys() <= mistakes.keys():
                return None, mistakes
            mistakes = {**mistakes, **found}
            for item in error.errors():
                keys = keys_of(item["loc"])
                _take_out(document, keys[:-1] if item["type"] == "missing" and len(keys) > 1 else keys)


_MADE_UP: dict[str, Any] = {"name": "unnamed", "data": {"path": "."}, "loss": {"name": "contrastive"}}


def _take_out(document: dict[str, Any], keys: Sequence[str | int]) -> None:
    top, *further = keys or [""]
    if top in _MADE_UP and further in ([], ["name"], ["path"]):
        document[top] = _MADE_UP[top]
        return
    if numbers := [place for place, key in enumerate(keys) if isinstance(key, int)]:
        keys = keys[: numbers[0]]  # the whole list: otherwise the paths of the entries that follow would change
    *parents, last = keys or [""]
    table: Any = document
    for key in parents:
        table = table.get(key, {})
    table.pop(last, None)


def _make_parts(experiment: Experiment, settings: dict, load_weights: bool, mistakes: "_Mistakes") -> None:
    import numpy as np

    from anchorage.data.batches import create_augmentation
    from anchorage.data.sampling import SAMPLERS
    from anchorage.encoders import HEADS
    from anchorage.encoders.backbones import application_names
    from anchorage.losses import create_loss
    from anchorage.methods import METHODS, Method, create_methods
    from anchorage.procedures import PROCEDURES, Procedure, create_procedure
    from anchorage.training.run import create_network, create_sampler, make_optimizer
    from anchorage.training.settings import OptimizerSettings

    encoder, loss, training = settings["encoder"], settings["loss"], settings["training"]
    encoder["head"] = mistakes.check_params("encoder.head", encoder["head"], HEADS) or {"name": "plain"}
    if not load_weights and encoder["weights"] == "imagenet" and encoder["name"] in application_names():
        encoder["weights"] = None
    network = None
    with mistakes.at("encoder", encoder):
        network = create_network(encoder, experiment.data.image_size)
    facts: dict[str, Any] = {"num_classes": _CLASSES, "class_counts": [2] * _CLASSES}
    facts["embedding_size"] = encoder["embedding_size"]
    if sifted := _check_loss_params("loss", loss, mistakes):
        with mistakes.at("loss", sifted):
            create_loss(sifted["name"], sifted["params"], **facts)
    sampler = None
    if sifted := mistakes.check_params("training.sampler", training["sampler"], SAMPLERS):
        with mistakes.at("training.sampler", sifted):
            sampler = create_sampler(sifted, np.repeat(np.arange(_CLASSES), 2), experiment.seed)
    facts |= getattr(sampler, "facts", {})
    facts |= {"epochs": training["epochs"], "steps_per_epoch": 1, "seed": 0}
    for place, method in enumerate(training["methods"]):
        path = f"training.methods.{place}"
        if sifted := mistakes.check_params(path, method, METHODS, Method):
            with mistakes.at(path, sifted, unless="training.sampler"):  # it may lack what the sampler would have known
                create_methods([sifted], **facts)
    procedure = training["procedure"]
    if procedure and (sifted := mistakes.check_params("training.procedure", procedure, PROCEDURES, Procedure)):
        with mistakes.at("training.procedure", sifted):
            create_procedure(sifted, seed=0)
    optimizer = training["optimizer"]
    with mistakes.at("training.optimizer", optimizer):
        asked = OptimizerSettings.from_dict(optimizer)
        make_optimizer(asked, asked.learning_rate)
    for name, value in training["augmentation"].items():
        with mistakes.at(f"training.augmentation.{name}"):
            create_augmentation({name: value})
    if sampler is not None and not mistakes.found:
        facts |= {"num_classes": _BUILT_CLASSES, "class_counts": [2] * _BUILT_CLASSES}
        steps = training["steps_per_epoch"] or sampler.steps_per_round
        learner = _fit_together(network, settings, facts, training["epochs"] * steps, mistakes)
        if learner is not None and not mistakes.found:
            try_own_parts(learner, settings, sampler, mistakes.at)


def _fit_together(network, settings: dict, facts: Mapping[str, Any], steps: int, mistakes: "_Mistakes"):
    """Make a learner of parts that are in order one by one: do encoder, loss, methods and optimizer go together?

    Returns:
        The `MetricLearner`; None if its encoder and loss do not fit.
    """
    from anchorage.learner import MetricLearner
    from anchorage.losses import create_loss
    from anchorage.methods import create_methods, need_raw
    from anchorage.training.run import compile_learner, create_network

    encoder, loss, training = settings["encoder"], settings["loss"], settings["training"]
    size = network.input_shape[1]
    if need_raw(training["methods"]):
        network = create_network({**encoder, "weights": None}, size, raw=True)
    with mistakes.at("loss.params"):
        _check_memory(create_loss(loss["name"], loss["params"], **facts), encoder["embedding_size"])
    if mistakes.found:
        return None
    layer = create_loss(loss["name"], loss["params"], **facts)
    with mistakes.at("loss"):
        MetricLearner(network, layer).build((None, size, size, 3))
    if mistakes.found:
        return None
    learner = MetricLearner(network, layer, create_methods(training["methods"], **facts))
    for place, method in enumerate(learner.methods):
        with mistakes.at(f"training.methods.{place}"):
            method.prepare(learner)
    if not mistakes.found:
        with mistakes.at("training.optimizer", training["optimizer"]):
            compile_learner(learner, training["optimizer"], steps)
    return learner


def _check_memory(layer, embedding_size: int) -> None:
    """Raise where the weights of one of our losses would not fit into this machine's memory; none is made to look.

    Training keeps three more numbers for each trainable weight: its gradient and the optimizer's two averages.
    """
    import keras
    from keras.src.backend.common import global_state

    from anchorage.losses import LOSSES

    if type(layer) not in LOSSES.values() or type(layer).build is keras.layers.Layer.build:
        return
    with keras.StatelessScope(initialize_variables=False):
        layer.build((2, embedding_size), (2,))
    # Otherwise Keras makes up for the values of these weights as soon as it leaves another scope.
    global_state.set_global_attribute("uninitialized_variables", [])
    needed = sum(4 * math.prod(weight.shape) * (4 if weight.trainable else 1) for weight in layer.weights)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UsageError(
            "E_LOSS_TOO_LARGE",
            f"Expected weights that fit into the {memory / 2**30:,.1f} GiB of this machine. Received: training takes "
            f"{needed / 2**30:,.1f} GiB for the weights of the loss, with {_BUILT_CLASSES:,} classes. Ask for fewer.",
        )


def _check_loss_params(path: str, loss: Mapping[str, Any], mistakes: "_Mistakes") -> dict[str, Any] | None:
    """As `_Mistakes.check_params`, for a loss and the parts inside it."""
    import keras

    from anchorage.losses import LOSSES, find_loss, resolve_alias
    from anchorage.losses._keras_loss import is_keras_loss

    name, own = resolve_alias(loss["name"])
    loss = {**loss, "name": name, "params": {**(own or {}), **loss["params"]}}
    if is_keras_loss(name):
        return dict(loss)
    sifted = mistakes.check_params(path, loss, LOSSES, keras.layers.Layer)
    if sifted is None:
        return None

    def check_part(path: str, part: Any, table: Mapping[str, type] | None) -> Any:
        if isinstance(part, list):
            parts = [check_part(f"{path}.{place}", each, table) for place, each in enumerate(part)]
            return parts if all(parts) else None
        if not _is_part(part):
            return part  # for `create_loss` to complain about
        part = {"params": {}, **part}
        if table is None:
            return _check_loss_params(path, part, mistakes)
        return mistakes.check_params(path, part, table, keras.layers.Layer)

    params = sifted["params"]
    for key, table in getattr(find_loss(name), "parts", {}).items():
        if key in params:
            params[key] = check_part(f"{path}.params.{key}", params[key], table)
    return {**sifted, "params": {key: value for key, value in params.items() if value is not None}}


def _is_part(value: Any) -> bool:
    if not (isinstance(value, Mapping) and set(value) <= {"name", "params"}):
        return False
    return isinstance(value.get("name"), str) and isinstance(value.get("params", {}), Mapping)


# Where the fault lies that a maker of parts tells by this code.
_PLACES = {"E_NAME_UNKNOWN": "name", "E_PARAMETER_UNKNOWN": "params", "E_ENCODER_WEIGHTS": "weights"}


class _Mistakes:
    """What was found wrong so far, by its path in the file."""

    def __init__(self, found: Mapping[str, str] = MappingProxyType({})):
        self.found: dict[str, str] = dict(found)

    def check_params(
        self, path: str, section: Mapping[str, Any], table: Mapping[str, Any], base: type = object
    ) -> dict[str, Any] | None:
        """A part without the parameters that it does not take, which are noted; None if its name leads nowhere."""
        from anchorage.registry import constructor_parameters, find_class, nearest

        name = section["name"]
        try:
            takes = constructor_parameters(find_class(table, name, base))
        except UsageError as error:
            self.found.setdefault(f"{path}.name", error.message)
            return None
        for key in [key for key in section["params"] if key not in takes]:
            told = f"{name!r} takes {sorted(takes)}. Received unknown: {key!r}.{nearest(key, takes)}"
            self.found.setdefault(f"{path}.params.{key}", told)
        return {"name": name, "params": {key: value for key, value in section["params"].items() if key in takes}}

    @contextmanager
    def at(self, path: str, section: Mapping[str, Any] | None = None, unless: str = "") -> Iterator[None]:
        """Note what a constructor says of its arguments; nothing missing `unless` what is named was in order."""
        try:
            yield
        except UsageError as error:
            if error.code != "E_PARAMETER_MISSING" or not self._took_out(path, unless):
                self.found.setdefault(self._place(path, section, error.message, error.code), error.message)
        except (Exception, SystemExit) as error:
            fault = find_fault(error)
            if fault is None and not isinstance(error, ValueError | TypeError | ImportError | AttributeError):
                raise
            told = fault.message if fault else " ".join(str(error).split())
            self.found.setdefault(self._place(path, section, told), told)

    def _took_out(self, path: str, unless: str) -> bool:
        """Whether what is missing may be missing only because something else is wrong: a part inside this one, say."""
        inside = re.compile(rf"{re.escape(path)}\.params\.\w+\.")
        return any(inside.match(key) or _within(key, unless) for key in self.found)

    @staticmethod
    def _place(path: str, section: Mapping[str, Any] | None, told: str, code: str = "") -> str:
        if section is None:
            return path
        named = re.match(r"`(\w+)`", told)  # as in "`margin` must be positive"
        params = section["params"]
        if named and named[1] in params:
            return f"{path}.params.{named[1]}"
        if named and named[1] in section:
            return f"{path}.{named[1]}"
        if len(section) > 2 and code in _PLACES:  # encoder and optimizer, whose names were not looked up before
            return f"{path}.{_PLACES[code]}"
        return f"{path}.params" if params or code == "E_PARAMETER_MISSING" else path


def _within(path: str, other: str) -> bool:
    """Whether the path is the other one, or lies in it."""
    return bool(other) and f"{path}.".startswith(f"{other}.")
