"""Search spaces: ranges by the path of their setting."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Scalar = bool | int | float | str
Sampling = Literal["linear", "log"]


@dataclass(frozen=True)
class Condition:
    """Another range, and the value of it with which a range is active."""

    path: str
    value: Scalar


@dataclass(frozen=True)
class Range:
    """The values of one setting that a search tries: an interval of numbers, or a list of choices.

    Args:
        path: of the setting, such as `"loss.params.margin"`.
        low: smallest value; a range of two integers has integers only.
        high: largest value.
        sampling: scale of an interval; `"log"` needs `low` above 0.
        step: distance between two values, or their ratio with `"log"`; None tries any value.
        choices: the values, instead of `low` and `high`.
        default: where searches that have a start begin; None is the middle of an interval, or the first choice.
        condition: when the range is active; None is always.
    """

    path: str
    low: float | None = None
    high: float | None = None
    sampling: Sampling = "linear"
    step: float | None = None
    choices: Sequence[Scalar] | None = None
    default: Scalar | None = None
    condition: Condition | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Range":
        """The range of its fields as plain values, such as those of a JSON document."""
        condition = values.get("condition")
        return cls(**{**values, "condition": Condition(**condition) if condition else None})


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
