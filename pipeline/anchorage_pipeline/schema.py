"""The experiment file as a JSON Schema, which editors use, and as a page that lists every key."""

import json
from collections.abc import Iterator
from typing import Any

from anchorage_pipeline.config import Experiment

SCHEMA_FILE = "experiment.schema.json"  # the file that the first line of an experiment file names
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLURALS = {"object": "tables", "boolean": "booleans", "integer": "integers", "number": "numbers", "string": "strings"}

_PARTS = {"Named": "table with `name` and `params`", "Alternatives": "table with `choices`"}  # sections of no own

_INTRODUCTION = """\
# The experiment file

A TOML file with the keys below; only `name` and `data.path` are required. Paths are relative to the current folder.
`anchorage check FILE` validates a file and its data.

Parameters of a loss, sampler, method or optimizer, and learning rates, may be ranges for the tuner to search:
`{ low = 0.05, high = 0.5 }`, with `sampling = "log"` on a logarithmic scale and with `step` in steps, or
`{ choices = [16, 32] }`. Loss, sampler, procedure and each of the methods may be choices, too, with ranges that are
searched together with them:

```toml
[loss]
choices = [
  "contrastive",
  { name = "balanced_contrastive", params = { lam = { low = 0.01, high = 100.0, sampling = "log", default = 1.0 } } },
]

[training]
methods = [{ choices = ["none", "moving_average"] }]
```

`default` is where the coordinate search starts. If the sampler has ranges, every trial and the final training see as
many images per epoch as with the defaults, whatever the size of a batch; the learning rate stays as it is written.

With the first line `#:schema experiment.schema.json`, editors complete and check the file; `anchorage schema --output
experiment.schema.json` writes the schema, and `anchorage schema --markdown` this page."""


def experiment_schema() -> dict[str, Any]:
    """The JSON Schema of an experiment file, with a description and the default of every key."""
    return {"$schema": _DIALECT, **_clean(Experiment.model_json_schema())}


def _clean(node: Any) -> Any:
    """Drop null, which TOML does not have; the branches of a union may overlap, as an empty list is one of anything."""
    if isinstance(node, list):
        return [_clean(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    node = {key: _clean(value) for key, value in node.items() if not (key == "default" and value is None)}
    node.pop("discriminator", None)
    if branches := node.pop("oneOf", None) or node.pop("anyOf", None):
        if len(branches) > 1:
            return {**node, "anyOf": branches}
        return {**branches[0], **node}
    return node


def reference_page() -> str:
    """All keys of an experiment file in Markdown: a table for each section."""
    schema = experiment_schema()
    lines = [_INTRODUCTION]
    for path, section in _sections("", schema, schema["$defs"]):
        lines += ["", f"## `[{path}]`" if path else "## Top level", "", section["description"], ""]
        lines += ["| key | value | default | |", "|---|---|---|---|"]
        for key, value in section["properties"].items():
            if _target(value, schema["$defs"]) and _name(value) not in _PARTS:
                continue  # a section of its own
            default = f"`{_toml(value['default'])}`" if "default" in value else ""
            default = "required" if key in section.get("required", ()) else default
            lines.append(f"| `{key}` | {_kind(value)} | {default} | {' '.join(value['description'].split())} |")
    return "\n".join(lines) + "\n"


def _sections(path: str, section: dict[str, Any], defs: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, section
    for key, value in section["properties"].items():
        target = _target(value, defs)
        if target and _name(value) not in _PARTS:
            yield from _sections(f"{path}.{key}" if path else key, target, defs)


def _name(value: dict[str, Any]) -> str:
    return value.get("$ref", "").rpartition("/")[2]


def _target(value: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any] | None:
    return defs.get(_name(value))


def _kind(value: dict[str, Any]) -> str:
    """The type and the limits of a value, in words."""
    if _name(value) in _PARTS:
        return _PARTS[_name(value)]
    if "anyOf" in value:
        kinds = dict.fromkeys(
            "range or choices" if "$ref" in branch and _name(branch) not in _PARTS else _kind(branch)
            for branch in value["anyOf"]
        )
        return ", ".join(kinds)
    if "enum" in value:
        return ", ".join(f"`{_toml(item)}`" for item in value["enum"])
    if value["type"] == "array":
        items = value["items"]
        return f"list of {'tables' if '$ref' in items else _items(items)}"
    if value["type"] == "object":
        items = value["additionalProperties"]
        return f"table of {'values' if '$ref' in items else _items(items)}"
    return f"{value['type']}{_limits(value)}"


def _items(items: dict[str, Any]) -> str:
    if "enum" in items:
        return _kind(items)
    if "anyOf" in items:
        kinds = [
            "tables" if _name(branch) in _PARTS else "ranges or choices" if "$ref" in branch else _items(branch)
            for branch in items["anyOf"]
        ]
        return ", ".join(dict.fromkeys(kinds))
    return f"{_PLURALS[items['type']]}{_limits(items)}"


def _limits(value: dict[str, Any]) -> str:
    limits = [
        text.format(f"{value[key]:,}")
        for key, text in (
            ("minimum", "at least {}"),
            ("exclusiveMinimum", "above {}"),
            ("maximum", "at most {}"),
            ("exclusiveMaximum", "below {}"),
        )
        if key in value
    ]
    return f", {' and '.join(limits)}" if limits else ""


def _toml(value: Any) -> str:
    """A value as in TOML, on one line."""
    if isinstance(value, dict):
        items = ", ".join(f"{key or _toml(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
