"""The parameters of the compiled pipeline: what a single run, or a schedule, may change without a new version.

Their values are the documents that nodes take, with those of the experiment as defaults. Nobody needs to write such a
document: `run_parameters` derives it from the experiment with other values, which are checked as those of a file are.
"""

import copy
from collections.abc import Mapping
from typing import Any

from anchorage.errors import UsageError

# Parameter: its description, and the inputs of nodes that it stands for.
PARAMETERS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "span": (
        "Span of the data, which takes the place of {SPAN} in data.path; empty for the newest.",
        (("IdentifyRun", "span"),),
    ),
    "trigger": (
        "Limits of [trigger], as JSON: the run goes on only if one is passed; {} for a run that always does.",
        (("IdentifyRun", "limits_json"),),
    ),
    "training": ("Encoder, loss and training, as JSON.", (("Trainer", "custom_config"),)),
    "tuning": ("Search, encoder, loss and training, as JSON.", (("Tuner", "custom_config"),)),
    "evaluation": ("Evaluation and gate, as JSON.", (("EvaluateRetrieval", "settings_json"),)),
    "experiment": (
        "The whole experiment for report and manifest, as JSON.",
        (("EvaluateRetrieval", "facts_json"), ("PublishRelease", "facts_json")),
    ),
    "settings_version": ("Digest of experiment and code.", (("IdentifyRun", "settings_version"),)),
}


def open_parameters(document: dict[str, Any]) -> None:
    """Turn constants of a compiled pipeline into its parameters, in place; each constant becomes the default."""
    tasks = document["root"]["dag"]["tasks"]
    declared: dict[str, dict[str, Any]] = {}
    for name, (description, places) in PARAMETERS.items():
        for node, key in places:
            found = tasks.get(node, {}).get("inputs", {}).get("parameters", {}).get(key)
            if found is None:
                continue
            value = found["runtimeValue"]["constant"]
            if name in declared and declared[name]["defaultValue"] != value:
                raise ValueError(f"parameter {name!r} has two defaults; give {node} one of its own")
            declared[name] = {
                "parameterType": "STRING",
                "defaultValue": value,
                "isOptional": True,
                "description": description,
            }
            tasks[node]["inputs"]["parameters"][key] = {"componentInputParameter": name}
    document["root"]["inputDefinitions"] = {"parameters": declared}


def defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a compiled pipeline with their default values."""
    declared = document["root"].get("inputDefinitions", {}).get("parameters", {})
    return {name: parameter["defaultValue"] for name, parameter in declared.items()}


def run_parameters(deployed: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that turn a run of one compiled pipeline into a run of another.

    Args:
        deployed: the pipeline on the server.
        wanted: the pipeline of the experiment with other values.

    Raises:
        UsageError: E_RUN_PARAMETER, if parameters cannot express the difference.
    """
    have, want = defaults(deployed), defaults(wanted)
    changed = _differences(_shape(deployed), _shape(wanted))
    if have.keys() != want.keys():
        changed.append("parameters of the pipeline")
    if changed:
        raise UsageError(
            "E_RUN_PARAMETER",
            "Expected values that a run of the deployed version can take: those of `training`, `loss`, `encoder`, "
            f"`tuning`, `trigger` and `evaluation`. Received values that change {', '.join(changed[:3])}: deploy a new "
            "version",
        )
    return {name: value for name, value in want.items() if have[name] != value}


def _shape(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without the default values."""
    bare = copy.deepcopy({key: value for key, value in document.items() if key != "sdkVersion"})
    for parameter in bare["root"].get("inputDefinitions", {}).get("parameters", {}).values():
        parameter.pop("defaultValue")
    return bare


def _differences(one: Any, other: Any, path: tuple[str, ...] = ()) -> list[str]:
    if one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict) and len(path) < 7:
        keys = sorted({*one, *other})
        return [text for key in keys for text in _differences(one.get(key), other.get(key), (*path, key))]
    place = [name for name in path if name not in {"root", "dag", "tasks", "inputs", "parameters"}]
    return [".".join(place) or "the graph"]
