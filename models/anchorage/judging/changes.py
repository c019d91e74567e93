"""Differences between two experiment files."""

from collections.abc import Iterator, Mapping
from typing import Any


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the settings that differ, as `key`, `before` and `now`; None if a file does not have the key.

    Example:
        >>> changed_settings({"seed": 1, "loss": {"name": "margin"}}, {"seed": 1, "loss": {"name": "circle"}})
        [{'key': 'loss.name', 'before': 'margin', 'now': 'circle'}]
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    keys = [*new, *(key for key in old if key not in new)]
    return [{"key": key, "before": old.get(key), "now": new.get(key)} for key in keys if old.get(key) != new.get(key)]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        yield from _flat({str(place): inner for place, inner in enumerate(value)}, path)
    else:
        yield path, value
