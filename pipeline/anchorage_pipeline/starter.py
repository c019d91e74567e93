"""`anchorage init`: choose settings for data, measure a training step, and write an experiment file."""

import json
import os
import re
import shlex
import shutil
import tomllib
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from anchorage.data.listing import MAX_REJECTS
from anchorage.data.store import RecordSpec
from anchorage.disk import disk_trouble
from anchorage.errors import UsageError
from anchorage.progress import task
from anchorage.storage import is_remote
from anchorage.training.recipes import choose_settings
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.mistakes import explain
from anchorage_pipeline.schema import SCHEMA_FILE, experiment_schema
from anchorage_pipeline.starting_file import Line, format_file
from anchorage_pipeline.startup import load_keras
from anchorage_pipeline.step_time import measure_step

if TYPE_CHECKING:
    from anchorage_pipeline.survey import Survey

_SIZES, _GPU_SIZES = (32, 64, 96), (160, 224)
_TRAINING_SHARE = 0.6  # of the minutes; the others are for packing, validation, evaluation and the index

Tables = dict[str, list[Line]]
Measure = Callable[[Experiment, Sequence[int]], float]


class Start(NamedTuple):
    """The data that was found, and the settings chosen for it.

    Args:
        lines: a summary for the user, at most ten lines.
        document: the same as plain values: `file`, `schema`, `data`, `machine`, `plan` and the `next` command.
    """

    lines: list[str]
    document: dict[str, Any]


def start_experiment(
    path: str, *, output: str = "", name: str = "", minutes: int = 10, measure: Measure = measure_step
) -> Start:
    """Inspect data and write an experiment file for it, and the JSON Schema beside it unless there is one.

    Args:
        path: folder or table of images, or table of vectors.
        output: file to write; default `<name>.toml`.
        name: name of the experiment; default that of the data.
        minutes: time for a run on this machine, 1 or more.
        measure: function from the experiment and the sizes of its training classes to the seconds of a training step.

    Raises:
        UsageError: E_OUTPUT_EXISTS, E_OUTPUT_PLACE, E_PATH_ENCODING, E_EXPERIMENT for an invalid name, and those of
            `survey_data`.
        DataError: those of `survey_data`; E_TOO_MANY_REJECTS.
    """
    name = name or _name_after(path)
    target = Path(output or f"{name}.toml")
    _check_paths(path, target)
    tables: Tables = {"": [Line("name", name)], "data": [Line("path", path)]}
    _experiment(tables)  # raises for an invalid name before anything is read
    load_keras()
    from anchorage_pipeline.survey import survey_data

    found, gpus = survey_data(path), _count_gpus()
    tables["data"] = _data_lines(found, gpus)
    tables["encoder"] = _encoder_lines(found)
    plan = _add_training(tables, found, minutes, measure)
    machine = _inspect_machine(found, gpus)
    schema = target.with_name(SCHEMA_FILE)
    with disk_trouble(target.parent):
        if not schema.exists():
            schema.write_text(json.dumps(experiment_schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with target.open("x", encoding="utf-8") as file:
            file.write(format_file(tables, _head(path, target, minutes), SCHEMA_FILE))
    command = shlex.join(["anchorage", "check", str(target)])
    lines = [
        *found.describe(),
        _describe_machine(machine),
        f"plan     {plan.text}",
        f"written  {target}, with the reason for each choice",
        f"next     {command}",
    ]
    paths = {"file": target, "schema": schema, "next": command}
    return Start(lines, {**paths, "data": found.document(), "machine": machine, "plan": plan.values})


def choose_size(side: int, gpus: int) -> int:
    """The smallest side of network input that is not below that of the images; the largest ones need a GPU."""
    sizes = (*_SIZES, *(_GPU_SIZES if gpus else ()))
    return min([size for size in sizes if size >= side], default=sizes[-1])


def fit_epochs(seconds: float, minutes: int, most: int) -> int:
    """Number of epochs of so many seconds that fit into the training's share of the minutes, from 1 to `most`."""
    return min(max(int(_TRAINING_SHARE * minutes * 60 / max(seconds, 1e-6)), 1), most)


def _count_gpus() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def _name_after(path: str) -> str:
    plain = unicodedata.normalize("NFKD", Path(path).resolve().stem).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].strip("-") or "photos"


def _check_paths(path: str, target: Path) -> None:
    try:
        f"{path}{target}".encode()
    except UnicodeEncodeError:
        raise UsageError("E_PATH_ENCODING", f"Expected paths in UTF-8. Received: {path!r}, {str(target)!r}") from None
    if target.exists() or target.is_symlink():
        message = f"Expected no file at {target}. Found one, which is kept: name another by --output FILE.toml"
        raise UsageError("E_OUTPUT_EXISTS", message)
    if not target.parent.is_dir():
        raise UsageError("E_OUTPUT_PLACE", f"Expected a file in an existing folder. There is no folder {target.parent}")


def _experiment(tables: Tables) -> Experiment:
    """The experiment of the lines so far."""
    try:
        return Experiment.model_validate(tomllib.loads(format_file(tables)))
    except ValidationError as error:
        raise UsageError("E_EXPERIMENT", f"these values cannot be used:\n{explain(error, Experiment)}") from None


def _head(path: str, target: Path, minutes: int) -> str:
    command = shlex.join(["anchorage", "init", path, "--minutes", str(minutes)])
    check, run = (shlex.join(["anchorage", verb, str(target)]) for verb in ("check", "run"))
    return (
        f"Written by `{command}`. Every value may be changed; a missing one has a default.\n"
        f"  {check}   # checks file and data\n"
        f"  {run}     # runs the whole pipeline"
    )


def _data_lines(found: "Survey", gpus: int) -> list[Line]:
    from anchorage.data.intake import count_by_code, format_reject

    what = f"{found.layout[0].upper()}{found.layout[1:]}: {found.amount}."
    if not (is_remote(found.path) or Path(found.path).is_absolute()):
        what += " The path is relative to the current folder."
    lines = [Line("path", found.path, what)]
    if found.dimension:
        lines.append(Line("input", found.input))
    if found.columns:
        why = "Columns of the table with other names than path and label."
        if not found.has_label_column:
            why = "The table has no column of labels: each image is a class of its own, named by its path."
        lines.append(Line("columns", dict(found.columns), why))
    if not found.dimension:
        lines.append(Line("image_size", choose_size(found.side, gpus), _explain_size(found, gpus)))
    if found.labelled and found.given:
        lines.append(Line("", None, f"The data defines the split; {found.input} / classes: {found.splits}."))
    elif found.labelled:
        why = "Share of the classes to test on. A class is in one split only, so the test shows how search works on "
        why += f"classes that are new to the network. {found.input.capitalize()} / classes: {found.splits}."
        lines.append(Line("test_share", found.test_share, why))
        if found.val_share is not None:
            why = "Share of the other classes to validate on. The default would be one class, among whose "
            why += f"{found.input} every result is right, so that no epoch is better than another."
            lines.append(Line("val_share", found.val_share, why))
    if found.labelled and found.shared_classes:
        why = f"{found.shared_classes:,} classes have {found.input} in several splits. By default this stops a run: "
        why += "results on classes of the training are better than those on new classes. To measure search on new "
        why += "classes, put all classes into one folder without splits, and write a new file."
        lines.append(Line("block_on_leaks", False, why))
    if not found.labelled:
        why = f"Copies would stop a run, lest a network is tested on {found.input} of its training."
        lines.append(Line("block_on_leaks", False, f"{why} Here nothing is trained."))
    rejects = [reject for reject in found.listing.rejects if found.labelled or reject.code != "E_LABEL_MISSING"]
    if len(rejects) > MAX_REJECTS:
        why = f"{count_by_code(rejects)}: these records are left out. First: {format_reject(rejects[0])}."
        lines.append(Line("max_rejects", len(rejects) + MAX_REJECTS, why))
    return lines


def _explain_size(found: "Survey", gpus: int) -> str:
    why = "Images are cropped to a square and resized to this side in pixels. Their shorter side is "
    why += f"{found.side} pixels (median of {len(found.sides)} images)."
    if not gpus and found.side > _SIZES[-1]:
        why += f" Sizes above {_SIZES[-1]} show more detail, but train slowly without a GPU."
    return why


def _encoder_lines(found: "Survey") -> list[Line]:
    if found.dimension:
        why = "Only a head on the given vectors is trained. A residual head starts with the vectors as they are."
        return [
            Line("name", "head", why),
            Line("params", {"kind": "residual"}),
            Line("embedding_size", found.dimension, "A residual head keeps the length of the vectors."),
        ]
    why = "A small network that trains on CPUs, with ImageNet weights, which are part of the installation."
    return [Line("name", "efficientnet_lite0", why), Line("weights", "imagenet")]


class _Plan(NamedTuple):
    text: str
    values: dict[str, Any]


def _add_training(tables: Tables, found: "Survey", minutes: int, measure: Measure) -> _Plan:
    """Add the tables of loss and training; return the plan."""
    if reason := _why_untrained(tables, found):
        uses = "the vectors as they are" if found.dimension else "the pretrained encoder as it is"
        tables["training"] = [Line("epochs", 0, f"No training: {reason}. Search uses {uses}.")]
        return _Plan(f"no training: {reason}", {"epochs": 0, "reason": reason})
    experiment = _experiment(tables)
    settings, choices = choose_settings(training_settings(experiment), found.train_counts)
    chosen = {choice.setting: choice for choice in choices}
    sampler, steps, most = (chosen[f"training.{key}"] for key in ("sampler", "steps_per_epoch", "epochs"))
    with task("measuring a training step"):
        step = measure(experiment, found.train_counts)
    epochs = fit_epochs(step * steps.value, minutes, most.value)
    duration = _duration(epochs * steps.value * step)
    why = (
        f"A step took {step:.2g} s on this machine, so training takes {duration} of the budget (--minutes {minutes}). "
    )
    why += "Packing, validation after each epoch, evaluation and the index come on top. "
    if epochs == most.value:
        why += f"The recipe trains no longer: {most.reason}."
    elif epochs == 1:
        why += f"The recipe would train {most.value} epochs; fewer `steps_per_epoch` shorten the only one."
    else:
        why += f"The recipe would train {most.value} epochs: raise the value if there is more time."
    loss = settings["loss"]["name"]
    tables["loss"] = [Line("name", loss, _sentence(chosen["loss"].reason))]
    tables["training"] = [
        Line("sampler", settings["training"]["sampler"], _sentence(sampler.reason)),
        Line("steps_per_epoch", steps.value, _sentence(steps.reason)),
        Line("epochs", epochs, why),
        Line("", None, "The recipe chooses optimizer, learning rates, augmentation and methods; a run prints them."),
    ]
    size = "a residual head" if found.dimension else f"{experiment.encoder.name} at {experiment.data.image_size} pixels"
    rounds = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    return _Plan(
        f"{size}, {loss}, {rounds} of {steps.value} steps of {step:.2g} s (measured): {duration}",
        {
            "encoder": experiment.encoder.name,
            "image_size": experiment.data.image_size,
            "loss": loss,
            "epochs": epochs,
            "steps_per_epoch": steps.value,
            "step_seconds": step,
            "training_seconds": epochs * steps.value * step,
        },
    )


def _why_untrained(tables: Tables, found: "Survey") -> str:
    """Why the data cannot be trained on; empty if it can."""
    from anchorage_pipeline.inspection import check_listing

    kind = found.input
    if not found.labelled:
        return f"the {kind} have no labels (neither a folder per class nor a column of a table)"
    if (paired := sum(count > 1 for count in found.train_counts)) < 2:
        return f"a loss needs two training classes of two or more {kind}. Received: {paired}"
    try:
        check_listing(_experiment(tables))
    except UsageError as error:
        if not error.code.startswith("E_TOO_FEW"):
            raise
        return error.message.rstrip(".")
    return ""


def _inspect_machine(found: "Survey", gpus: int) -> dict[str, Any]:
    spec = RecordSpec(choose_size(found.side, gpus), dimension=found.dimension)
    free = shutil.disk_usage(Path.cwd()).free
    return {"cores": os.cpu_count(), "gpus": gpus, "free_bytes": free, "packed_bytes": found.records * spec.bytes}


def _describe_machine(machine: dict[str, Any]) -> str:
    gpu = f"{machine['gpus']} GPU" if machine["gpus"] else "no GPU"
    free, needed = machine["free_bytes"] / 1e9, machine["packed_bytes"] / 1e9
    return f"machine  {machine['cores']} cores, {gpu}; {free:,.1f} GB free, packed data takes {needed:.2g} GB"


def _duration(seconds: float) -> str:
    if seconds >= 60:
        return f"about {seconds / 60:.1f} minutes"
    return f"about {round(seconds)} seconds" if seconds >= 1.5 else "about a second"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
