"""Search spaces: ranges by the path of their setting."""

import copy
from collections.abc import Mapping
from typing import Any


def apply_values(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ranges in nested settings by values.

    Args:
        settings: nested settings.
        values: value by the path of the setting.

    Example:
        >>> apply_values({"loss": {"params": {"margin": {"low": 0.1, "high": 0.5}}}}, {"loss.params.margin": 0.2})
        {'loss': {'params': {'margin': 0.2}}}
        >>> apply_values({"methods": [{"params": {"weight": {"low": 1, "high": 2}}}]}, {"methods.0.params.weight": 1.5})
        {'methods': [{'params': {'weight': 1.5}}]}
    """
    applied = copy.deepcopy(dict(settings))
    for path, value in values.items():
        *parents, key = path.split(".")
        section: Any = applied
        for parent in parents:
            section = section[int(parent) if isinstance(section, list) else parent]
        section[key] = value
    return applied


def corner_values(space: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return points of the space that together cover both ends of every range and every choice.

    Args:
        space: `{"low": ..., "high": ...}` or `{"choices": [...]}` by the path of the setting.

    Example:
        >>> corner_values({"a": {"low": 1, "high": 2}, "b": {"choices": ["x", "y", "z"]}})
        [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'y'}, {'a': 1, 'b': 'z'}]
    """
    ends = {path: list(values.get("choices") or [values["low"], values["high"]]) for path, values in space.items()}
    points = max((len(values) for values in ends.values()), default=1)
    return [{path: values[i % len(values)] for path, values in ends.items()} for i in range(points)]
