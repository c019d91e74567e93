"""Turn validation errors of a TOML document into readable messages: one line each, with the path of the key."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

# Parts of pydantic's error paths that name a branch of a union instead of a key of the file.
_NOT_KEYS = {
    "<value>",
    "<range>",
    "<choices>",
    "<table>",
    "<tables>",
    "<part>",
    "<alternatives>",
    "bool",
    "int",
    "float",
    "str",
    "list[union[bool,int,float,str]]",
    "[key]",
}
# Messages by pydantic's error type; the error's context fills the braces.
_MESSAGES = {
    "bool_parsing": "Expected true or false",
    "bool_type": "Expected true or false",
    "dict_type": "Expected a table",
    "float_parsing": "Expected a number",
    "float_type": "Expected a number",
    "finite_number": "Expected a finite number",
    "greater_than": "Expected a number above {gt:g}",
    "greater_than_equal": "Expected a number of at least {ge:g}",
    "int_from_float": "Expected an integer",
    "int_parsing": "Expected an integer",
    "int_type": "Expected an integer",
    "less_than": "Expected a number below {lt:g}",
    "less_than_equal": "Expected a number of at most {le:g}",
    "list_type": "Expected a list",
    "literal_error": "Expected {expected}",
    "model_type": "Expected a table",
    "string_type": "Expected a string in quotes",
    "too_short": "Expected a list with at least {min_length} items",
}
_MAX_VALUE_LENGTH = 60  # characters of a wrong value in a message


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line per mistake: the path of the key, what was expected and received, and the closest known key.

    Args:
        error: pydantic's error.
        model: the model of the whole document, for the known keys.
    """
    return format_mistakes(mistakes_in(error, model))


def mistakes_in(error: ValidationError, model: type[BaseModel]) -> dict[str, str]:
    """The message of each mistake by the path of its key."""
    mistakes: dict[str, list[str]] = {}
    for item in error.errors():
        keys = keys_of(item["loc"])
        path = ".".join(map(str, keys)) or "(file)"
        mistakes.setdefault(path, []).append(_format(item, keys, model))
    return {path: " or: ".join(dict.fromkeys(texts)) for path, texts in mistakes.items()}


def keys_of(location: Sequence[str | int]) -> list[str | int]:
    """The keys of the file in one of pydantic's error paths."""
    return [key for key in location if key not in _NOT_KEYS]


def format_mistakes(mistakes: Mapping[str, str]) -> str:
    """One line per mistake: the path of the key and the message."""
    width = max(map(len, mistakes))
    return "\n".join(f"  {path:<{width}}  {text}" for path, text in mistakes.items())


def _format(item: Any, keys: Sequence[str | int], model: type[BaseModel]) -> str:
    from anchorage.registry import nearest

    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        *parents, key = keys
        return f"unknown key.{_suggest_key(str(key), parents, model)}"
    if kind == "missing":
        return "is missing"
    if kind == "string_pattern_mismatch":
        expected = "Expected 1 to 63 of the characters a-z, 0-9 and -, not starting with -"
    elif kind in _MESSAGES:
        expected = _MESSAGES[kind].format(**context)
    else:
        return item["msg"].removeprefix("Value error, ")
    suggestion = ""
    if kind == "literal_error" and isinstance(item["input"], str):
        suggestion = nearest(item["input"], context["expected"].replace(" or ", ", ").replace("'", "").split(", "))
    return f"{expected}. Received: {_shorten(item['input'])}.{suggestion}"


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."


def _suggest_key(key: str, parents: Sequence[str | int], model: type[BaseModel]) -> str:
    """Suggest a similar key of the same table, or else the path of the table that has this key."""
    from anchorage.registry import nearest

    known = {name for section in _sections(parents, model) for name in section.model_fields}
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    return nearest(key, known) or (f" Did you mean {elsewhere[0]!r}?" if elsewhere else "")


def _sections(keys: Sequence[str | int], model: type[BaseModel]) -> list[type[BaseModel]]:
    """The models allowed at a path of the file; inside a table with arbitrary keys, those of the enclosing table."""
    sections = [model]
    for key in keys:
        annotations = [section.model_fields[key].annotation for section in sections if key in section.model_fields]
        sections = [inner for annotation in annotations for inner in _models_in(annotation, set())] or sections
    return sections


def _models_in(annotation: Any, seen: set[int]) -> Iterator[type[BaseModel]]:
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in (*get_args(annotation), *filter(None, [getattr(annotation, "__value__", None)])):
        yield from _models_in(inner, seen)


def _paths(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Paths of all keys of a file, except in tables with arbitrary keys."""
    for name, field in model.model_fields.items():
        yield above + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _paths(inner, f"{above}{name}.")
