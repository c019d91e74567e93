"""What is wrong with a TOML document, in plain words: one line a mistake, with the path of its key."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

# Parts of pydantic's error paths that name the branch of a union rather than a key of the file.
_NOT_KEYS = {
    "<value>",
    "<range>",
    "<choices>",
    "<table>",
    "<tables>",
    "bool",
    "int",
    "float",
    "str",
    "list[union[bool,int,float,str]]",
    "[key]",
}
# Pydantic's kinds of errors; what is in braces comes from the error's context.
_WORDS = {
    "bool_parsing": "Expected true or false",
    "bool_type": "Expected true or false",
    "dict_type": "Expected a table",
    "float_parsing": "Expected a number",
    "float_type": "Expected a number",
    "finite_number": "Expected a finite number",
    "greater_than": "Expected a number above {gt:g}",
    "greater_than_equal": "Expected a number of at least {ge:g}",
    "int_from_float": "Expected a whole number",
    "int_parsing": "Expected a whole number",
    "int_type": "Expected a whole number",
    "less_than": "Expected a number below {lt:g}",
    "less_than_equal": "Expected a number of at most {le:g}",
    "list_type": "Expected a list",
    "literal_error": "Expected {expected}",
    "model_type": "Expected a table",
    "string_type": "Expected text in quotes",
    "too_short": "Expected a list with at least {min_length} items",
}
_SHOWN = 60  # characters of a wrong value


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line a mistake: the path of the key, what was expected, and what may have been meant.

    Args:
        error: what pydantic found.
        model: the model of the whole document, which knows the keys that there are.
    """
    return format_mistakes(mistakes_in(error, model))


def mistakes_in(error: ValidationError, model: type[BaseModel]) -> dict[str, str]:
    """What is wrong, by the path of its key."""
    mistakes: dict[str, list[str]] = {}
    for item in error.errors():
        keys = keys_of(item["loc"])
        path = ".".join(map(str, keys)) or "(file)"
        mistakes.setdefault(path, []).append(_tell(item, keys, model))
    return {path: " or: ".join(dict.fromkeys(texts)) for path, texts in mistakes.items()}


def keys_of(location: Sequence[str | int]) -> list[str | int]:
    """The keys of the file on one of pydantic's error paths."""
    return [key for key in location if key not in _NOT_KEYS]


def format_mistakes(mistakes: Mapping[str, str]) -> str:
    """One line a mistake: the path of the key, and what is wrong there."""
    width = max(map(len, mistakes))
    return "\n".join(f"  {path:<{width}}  {text}" for path, text in mistakes.items())


def _tell(item: Any, keys: Sequence[str | int], model: type[BaseModel]) -> str:
    from anchorage.registry import nearest

    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        *parents, key = keys
        return f"unknown key.{_meant(str(key), parents, model)}"
    if kind == "missing":
        return "is missing"
    if kind == "string_pattern_mismatch":
        told = "Expected 1 to 63 of the characters a-z, 0-9 and -, the first no -"
    elif kind in _WORDS:
        told = _WORDS[kind].format(**context)
    else:
        return item["msg"].removeprefix("Value error, ")
    close = ""
    if kind == "literal_error" and isinstance(item["input"], str):
        close = nearest(item["input"], context["expected"].replace(" or ", ", ").replace("'", "").split(", "))
    return f"{told}. Received: {_shown(item['input'])}.{close}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _meant(key: str, parents: Sequence[str | int], model: type[BaseModel]) -> str:
    """The key of that table that is like the unknown one, or else where in the file a key of that name belongs."""
    from anchorage.registry import nearest

    known = {name for section in _sections(parents, model) for name in section.model_fields}
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    return nearest(key, known) or (f" Did you mean {elsewhere[0]!r}?" if elsewhere else "")


def _sections(keys: Sequence[str | int], model: type[BaseModel]) -> list[type[BaseModel]]:
    """The models that may stand at a path of the file; those around it inside tables of free keys."""
    sections = [model]
    for key in keys:
        found = [section.model_fields[key].annotation for section in sections if key in section.model_fields]
        sections = [inner for annotation in found for inner in _models_in(annotation, set())] or sections
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
    """Paths of all keys of a file, but for those in tables of free keys."""
    for name, field in model.model_fields.items():
        yield above + name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _paths(inner, f"{above}{name}.")
