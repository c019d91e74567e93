"""Builds all parts of an experiment before it runs, so that a wrong name or value is found at once."""

import copy
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from anchorage.data.store import RecordSpec
from anchorage.errors import UsageError
from anchorage.training.settings import DEFAULT_EMBEDDING_SIZE, EncoderSettings, Part, RunSettings, Sections
from anchorage.user_code import find_fault
from anchorage_pipeline.config import Experiment, read_document
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.mistakes import format_mistakes, keys_of, mistakes_in
from anchorage_pipeline.own_parts import try_own_parts
from anchorage_pipeline.places import check_places
from anchorage_pipeline.source import locate_data, record_spec
from anchorage_pipeline.startup import load_keras
from anchorage_pipeline.tuning import check_search
from anchorage_pipeline.values import Named, search_space

_CLASSES = 100_000  # stand-in for a number that only the data knows
_BUILT_CLASSES = 1_000  # the same where each takes memory


def check_file(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file, with `overrides` as for `load_experiment`, and make its parts.

    Mistakes that can be found without Keras are reported first: loading it takes most of the time. Stored weights of
    `keras.applications` are not loaded: a download can take minutes.

    Raises:
        UsageError: E_EXPERIMENT_MISSING, E_EXPERIMENT_SYNTAX, E_DATA_MISSING; E_BUCKET_MISSING, E_OBJECT_CREDENTIALS,
            E_OBJECT_DENIED for what lies in an object store; E_EXPERIMENT naming every key and value
            that the schema refuses, metrics and loss that there are not, and missing data, or, if there are none of
            these, every other wrong name, parameter and value, with its path in the file.
    """
    experiment, mistakes = _drop_invalid(read_document(path, overrides))
    if experiment is not None:
        of_names = _wrong_names(experiment)
        # Values that the schema refused were removed: that they are now missing is not another mistake.
        mistakes |= {key: text for key, text in of_names.items() if not any(_within(known, key) for known in mistakes)}
        check_places(experiment)
        try:
            locate_data(experiment, again=True)
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

    All names and parameters are looked up; of several wrong values of one part only the first is reported.
    """
    import numpy as np

    from anchorage.training.recipes import choose_settings
    from anchorage.tuning.ranges import apply_values, corner_values, path_in_file

    names, space, given = _wrong_names(experiment), search_space(experiment), training_settings(experiment)
    searching = _Mistakes(names)
    check_search(experiment, space, searching)
    found = searching.found
    for values in corner_values(space):
        settings, _ = choose_settings(apply_values(given, values), np.full(_CLASSES, 2))
        mistakes = _Mistakes(names)
        _make_parts(RunSettings.from_dict(settings), record_spec(experiment), load_weights, mistakes)
        for path, message in mistakes.found.items():
            found.setdefault(path_in_file(path, given, values), message)
    return found


def _wrong_names(experiment: Experiment) -> dict[str, str]:
    """Unknown metrics and losses, found without loading Keras or TensorFlow."""
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
    if isinstance(experiment.loss, Named):
        with mistakes.at("loss.name"):
            check_name(experiment.loss.name)
    return mistakes.found


def _drop_invalid(document: dict[str, Any]) -> tuple[Experiment | None, dict[str, str]]:
    """The experiment without the values that the schema refuses, and the mistakes; None if that is not possible.

    Required values that are missing or wrong are replaced by placeholders.
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


def _make_parts(settings: RunSettings, spec: RecordSpec, load_weights: bool, mistakes: "_Mistakes") -> None:
    """Look up all names, then make what a training makes, with facts that stand in for those of the data."""
    import numpy as np

    from anchorage.data.batches import create_augmentation
    from anchorage.losses import create_loss
    from anchorage.procedures import create_procedure
    from anchorage.training.building import DataFacts, build_training

    settings, spec = _check_cache(settings, spec, load_weights, mistakes)
    settings = mistakes.settings = _check_names(settings, load_weights, mistakes)
    for name, value in settings.training.augmentation.items():
        with mistakes.at(f"training.augmentation.{name}"):
            create_augmentation({name: value})
    if procedure := settings.training.procedure:
        with mistakes.at("training.procedure"):
            create_procedure(vars(procedure), seed=settings.seed)
    # A sampler may ask for any number of classes; of the loss, each class takes memory.
    facts = DataFacts(np.repeat(np.arange(_CLASSES), 2), [2] * _BUILT_CLASSES, spec)
    with mistakes.at("loss"):
        loss, size = settings.loss, settings.encoder.embedding_size or spec.dimension or DEFAULT_EMBEDDING_SIZE
        known = {"num_classes": facts.num_classes, "class_counts": facts.class_counts, "embedding_size": size}
        _check_memory(create_loss(loss.name, dict(loss.params), **known), size)
    with suppress(_MistakesFoundError):
        built = build_training(settings, facts, mistakes, log_folder=Path("logs"))
        if built.sampler is not None:
            try_own_parts(built.learner, settings, built.sampler, mistakes)


def _check_cache(
    settings: RunSettings, spec: RecordSpec, load_weights: bool, mistakes: "_Mistakes"
) -> tuple[RunSettings, RecordSpec]:
    """Note settings that do not go with cached features; otherwise the records are the features of the trunk."""
    from anchorage.encoders.backbones import application_names
    from anchorage.training.features import check_cache, create_trunk

    encoder, mistakes.settings = settings.encoder, settings
    if not (encoder.cache or encoder.cached_copies):
        return settings, spec
    if not load_weights and encoder.weights == "imagenet" and encoder.name in application_names():
        encoder = replace(encoder, weights=None)
    with mistakes.at("encoder"):
        check_cache(settings)
        return settings, RecordSpec(dimension=create_trunk(encoder, spec).output_shape[-1])
    return replace(settings, encoder=replace(settings.encoder, cache=False, cached_copies=0)), spec


def _check_names(settings: RunSettings, load_weights: bool, mistakes: "_Mistakes") -> RunSettings:
    """Record unknown names and parameters; returns the settings without the latter."""
    import keras

    from anchorage.data.sampling import SAMPLERS
    from anchorage.encoders import HEADS
    from anchorage.encoders.backbones import application_names
    from anchorage.methods import METHODS, Method
    from anchorage.procedures import PROCEDURES, Procedure
    from anchorage.training.loggers import LOGGERS

    def check(path: str, part: Part, table: Mapping[str, Any], base: type = object) -> Part:
        found = mistakes.check_params(path, vars(part), table, base)
        return Part(**found) if found else part

    encoder, training = settings.encoder, settings.training
    head = check("encoder.head", encoder.head, HEADS)
    encoder = replace(encoder, head=EncoderSettings.head if "encoder.head.name" in mistakes.found else head)
    if not load_weights and encoder.weights == "imagenet" and encoder.name in application_names():
        encoder = replace(encoder, weights=None)
    loss = _check_loss_params("loss", vars(settings.loss), mistakes)
    sampler = check("training.sampler", training.sampler, SAMPLERS)
    methods = [check(f"training.methods.{i}", part, METHODS, Method) for i, part in enumerate(training.methods)]
    if procedure := training.procedure:
        procedure = check("training.procedure", procedure, PROCEDURES, Procedure)
    callback = keras.callbacks.Callback
    loggers = [check(f"training.loggers.{i}", part, LOGGERS, callback) for i, part in enumerate(training.loggers)]
    training = replace(training, sampler=sampler, methods=methods, procedure=procedure, loggers=loggers)
    return replace(settings, encoder=encoder, loss=Part(**loss) if loss else settings.loss, training=training)


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

    from anchorage.losses import LOSSES, find_loss, is_keras_loss, resolve_alias

    name, own = resolve_alias(loss["name"])
    loss = {**loss, "name": name, "params": {**(own or {}), **loss["params"]}}
    if is_keras_loss(name):
        return dict(loss)
    checked = mistakes.check_params(path, loss, LOSSES, keras.layers.Layer)
    if checked is None:
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

    params = checked["params"]
    for key, table in getattr(find_loss(name), "parts", {}).items():
        if key in params:
            params[key] = check_part(f"{path}.params.{key}", params[key], table)
    return {**checked, "params": {key: value for key, value in params.items() if value is not None}}


def _is_part(value: Any) -> bool:
    if not (isinstance(value, Mapping) and set(value) <= {"name", "params"}):
        return False
    return isinstance(value.get("name"), str) and isinstance(value.get("params", {}), Mapping)


# Key of a section that an error with this code refers to.
_PLACES = {"E_NAME_UNKNOWN": "name", "E_PARAMETER_UNKNOWN": "params", "E_ENCODER_WEIGHTS": "weights"}


class _MistakesFoundError(Exception):
    """Stops the construction of parts that depend on parts with mistakes."""


class _Mistakes(Sections):
    """The mistakes found so far, by their path in the file.

    Args:
        found: mistakes that are already known.

    Attributes:
        settings: the settings of the parts; an error that names one of them is recorded at its path.
    """

    def __init__(self, found: Mapping[str, str] = MappingProxyType({})):
        self.found: dict[str, str] = dict(found)
        self.settings: RunSettings | None = None
        self._joining = False  # every part was made, by itself

    def check_params(
        self, path: str, section: Mapping[str, Any], table: Mapping[str, Any], base: type = object
    ) -> dict[str, Any] | None:
        """A part without unknown parameters, which are recorded as mistakes; None if its name is unknown."""
        from anchorage.registry import constructor_parameters, find_class, nearest

        name = section["name"]
        try:
            takes = constructor_parameters(find_class(table, name, base))
        except UsageError as error:
            self.found.setdefault(f"{path}.name", error.message)
            return None
        for key in [key for key in section["params"] if key not in takes]:
            message = f"{name!r} takes {sorted(takes)}. Received unknown: {key!r}.{nearest(key, takes)}"
            self.found.setdefault(f"{path}.params.{key}", message)
        return {"name": name, "params": {key: value for key, value in section["params"].items() if key in takes}}

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """Note an error under the path of its section, or that of the argument that it names."""
        try:
            yield
        except UsageError as error:
            if error.code != "E_PARAMETER_MISSING" or not self._is_consequence(path):
                self._note(path, error.message, error.code)
        except (Exception, SystemExit) as error:
            fault = find_fault(error)
            if fault is None and not isinstance(error, ValueError | TypeError | ImportError | AttributeError):
                raise
            self._note(path, fault.message if fault else " ".join(str(error).split()))

    def require_all(self) -> None:
        self._joining = True
        if self.found:
            raise _MistakesFoundError

    def _note(self, path: str, message: str, code: str = "") -> None:
        if f"{path}.name" not in self.found:  # of a part without a class everything else is a consequence
            self.found.setdefault(self._place(path, message, code), message)

    def _is_consequence(self, path: str) -> bool:
        """Whether an argument may be missing only because something else is wrong.

        That is a part inside this one, or the sampler, which some methods ask for what it knows.
        """
        inside = re.compile(rf"{re.escape(path)}\.params\.\w+\.")
        needed = "training.sampler" if path.startswith("training.methods") else ""
        return any(inside.match(key) or _within(key, needed) for key in self.found)

    def _place(self, path: str, message: str, code: str) -> str:
        section = self._section(path)
        if not section:
            return path
        named = re.match(r"`(\w+)`", message)  # as in "`margin` must be positive"
        params = section["params"]
        if named and named[1] in params:
            return f"{path}.params.{named[1]}"
        if named and named[1] in section:
            return f"{path}.{named[1]}"
        if len(section) > 2 and code in _PLACES:  # encoder and optimizer, whose names were not looked up before
            return f"{path}.{_PLACES[code]}"
        of_arguments = not self._joining and (params or code == "E_PARAMETER_MISSING")
        return f"{path}.params" if of_arguments else path

    def _section(self, path: str) -> dict[str, Any]:
        """The settings at a path, by name; empty if it is that of no part."""
        section: Any = self.settings
        for key in path.split("."):
            section = section[int(key)] if isinstance(section, list) else getattr(section, key, None)
        return vars(section) if hasattr(section, "params") else {}


def _within(path: str, other: str) -> bool:
    """Whether the path is equal to the other one or below it."""
    return bool(other) and f"{path}.".startswith(f"{other}.")
