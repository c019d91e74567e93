"""`--set key=value`: single values of an experiment file, changed on the command line."""

import copy
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from anchorage.errors import UsageError


def apply_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The tables of an experiment file with some values replaced; whether they are right is checked with the file.

    Args:
        document: the tables; not changed.
        overrides: `"path.of.key=value"` each, the value as in TOML; what is no TOML is text, so that quotes around
            names may be left out. A number in a path counts the entries of a list from 0.

    Raises:
        UsageError: E_OVERRIDE for what is no `key=value`, or for a path that leads into a value or past a list.

    Example:
        >>> apply_overrides({"loss": {"name": "triplet"}}, ["loss.params.margin=0.2", "loss.name=margin"])
        {'loss': {'name': 'margin', 'params': {'margin': 0.2}}}
    """
    changed = copy.deepcopy(dict(document))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UsageError("E_OVERRIDE", f"Expected `--set path.of.key=value`. Received: {override!r}")
        _put(changed, keys, _parse(text.strip()), override)
    return changed


def _parse(text: str) -> Any:
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if set(document) == {"value"} else text


def _put(document: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    table: Any = document
    for place, key in enumerate(keys):
        is_last = place == len(keys) - 1
        if isinstance(table, list):
            if not key.isdecimal() or int(key) >= len(table):
                path = ".".join(keys[:place])
                raise UsageError(
                    "E_OVERRIDE",
                    f"`{path}` is a list of {len(table)}. Expected an entry from 0 on. Received: {override!r}",
                )
            if is_last:
                table[int(key)] = value
            table = table[int(key)]
        elif isinstance(table, dict):
            if is_last:
                table[key] = value
            table = table.setdefault(key, {})
        else:
            text = f"`{'.'.join(keys[:place])}` is {table!r}, which holds no keys"
            raise UsageError("E_OVERRIDE", f"{text}. Received: {override!r}")
