"""Search spaces: ranges by the path of their setting."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from anchorage.errors import UsageError

Scalar = bool | int | float | str
Sampling = Literal["linear", "log"]

GRID_POINTS = 5  # values that the grid takes of an interval without a step
NONE = "none"  # the choice that leaves an entry of a list out, such as a method


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
        low: smallest value; an interval between two integers has integers only.
        high: largest value.
        sampling: scale of an interval; `"log"` needs `low` above 0.
        step: distance between two values, or their ratio with `"log"`; None allows any value.
        choices: the values, instead of `low` and `high`.
        default: where the coordinate search starts; None is the middle of an interval, or the first choice.
        condition: when the range is active; None is always.

    Raises:
        UsageError: E_TUNER_SPACE if there are neither both ends nor choices.
    """

    path: str
    low: float | None = None
    high: float | None = None
    sampling: Sampling = "linear"
    step: float | None = None
    choices: Sequence[Scalar] | None = None
    default: Scalar | None = None
    condition: Condition | None = None

    def __post_init__(self):
        if self.choices is None and (self.low is None or self.high is None):
            given = [name for name in ("low", "high") if getattr(self, name) is not None]
            raise UsageError(
                "E_TUNER_SPACE", f"`{self.path}` needs `low` and `high`, or `choices`. Received: {given or 'neither'}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Range":
        """The range of its fields as plain values, such as those of a JSON document."""
        condition, choices = values.get("condition"), values.get("choices")
        condition = Condition(**condition) if condition else None
        return cls(**{**values, "choices": choices and tuple(choices), "condition": condition})

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of an interval."""
        return cast(float, self.low), cast(float, self.high)

    @property
    def is_integer(self) -> bool:
        """Whether it is an interval of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def start(self) -> Scalar:
        """Where the coordinate search starts."""
        if self.default is not None:
            return self.default
        if self.choices is not None:
            return self.choices[0]
        values = self.grid()
        return values[len(values) // 2] if self.step is not None else self._at(0.5)

    def grid(self) -> Sequence[Scalar]:
        """The values of the grid search: the choices, the steps, or five values evenly spaced on the scale."""
        if self.choices is not None:
            return self.choices
        if self.step is None:
            return tuple(dict.fromkeys(self._at(place / (GRID_POINTS - 1)) for place in range(GRID_POINTS)))
        low, high = self.ends
        if self.sampling == "log":
            count = int(math.log(high / low, self.step) + 1e-8) + 1  # not one less for a rounding error
            return tuple(self._round(low * self.step**place) for place in range(count))
        count = int((high - low) / self.step + 1e-8) + 1
        return tuple(self._round(low + self.step * place) for place in range(count))

    def __str__(self) -> str:
        if self.choices is not None:
            return " | ".join(map(str, self.choices))
        step = "" if self.step is None else f", step {self.step:g}"
        return f"{self.low:g} to {self.high:g}{', log' if self.sampling == 'log' else ''}{step}"

    def _at(self, share: float) -> float:
        low, high = self.ends
        return self._round(low * (high / low) ** share if self.sampling == "log" else low + share * (high - low))

    def _round(self, value: float) -> float:
        return round(value) if self.is_integer else value


def read_space(settings: Mapping[str, Any]) -> list[Range]:
    """Find the ranges in nested settings.

    A range is a table with `low` and `high`, or with `choices`. Choices may be components, tables with a `name`, which
    is the value of the choice; the ranges in the table of a component are active with it only.

    Args:
        settings: nested settings as plain values, such as those of an experiment file.

    Example:
        >>> margin = {"low": 0.0, "high": 1.0}
        >>> choices = [{"name": "nca"}, {"name": "triplet", "params": {"margin": margin}}]
        >>> for item in read_space({"loss": {"choices": choices}}):
        ...     print(item.path, "=", item)
        loss = nca | triplet
        loss.choices.1.params.margin = 0 to 1
    """
    return list(_walk(settings, "", None))


def _walk(value: Any, path: str, condition: Condition | None) -> Iterator[Range]:
    if isinstance(value, Mapping) and "choices" in value:
        names = tuple(choice["name"] if isinstance(choice, Mapping) else choice for choice in value["choices"])
        yield Range(path, choices=names, default=value.get("default"), condition=condition)
        for place, choice in enumerate(value["choices"]):
            if isinstance(choice, Mapping):
                yield from _walk(choice, f"{path}.choices.{place}", Condition(path, names[place]))
    elif isinstance(value, Mapping) and {"low", "high"} & set(value) and "name" not in value:
        yield Range(path, **value, condition=condition)
    elif isinstance(value, Mapping | list):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _walk(item, f"{path}.{key}" if path else str(key), condition)


def apply_values(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ranges in nested settings by values.

    Args:
        settings: nested settings.
        values: value by the path of the setting; names with a `/` are an oracle's own, and have no effect.

    Example:
        >>> apply_values({"loss": {"params": {"margin": {"low": 0.1, "high": 0.5}}}}, {"loss.params.margin": 0.2})
        {'loss': {'params': {'margin': 0.2}}}
        >>> loss = {"choices": [{"name": "nca"}, {"name": "triplet", "params": {"margin": {"low": 0.0, "high": 1.0}}}]}
        >>> apply_values({"loss": loss}, {"loss": "triplet", "loss.choices.1.params.margin": 0.2})
        {'loss': {'name': 'triplet', 'params': {'margin': 0.2}}}
    """
    applied = copy.deepcopy(dict(settings))
    left_out = []
    # The ranges in a component come before the choice of the component, of which their path is a part.
    for path in sorted(values, key=lambda path: -path.count(".")):
        if "/" in path:
            continue
        *parents, key = path.split(".")
        section: Any = applied
        for parent in parents:
            section = section[int(parent) if isinstance(section, list) else parent]
        place: Any = int(key) if isinstance(section, list) else key
        section[place] = _find_choice(section[place] if isinstance(section, list) else section.get(place), values[path])
        if isinstance(section, list) and isinstance(section[place], dict) and section[place].get("name") == NONE:
            left_out.append((section, section[place]))
    for section, entry in left_out:
        section.remove(entry)
    return applied


def _find_choice(setting: Any, value: Any) -> Any:
    """The choice that a value stands for, such as a component of this name, or the value itself."""
    choices = setting.get("choices", []) if isinstance(setting, Mapping) else []
    for choice in choices:  # Keras Tuner has 1 and 0 for true and false
        if (choice["name"] if isinstance(choice, Mapping) else choice) == value:
            return choice
    return value


def path_in_file(path: str, settings: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The path, in settings with ranges, of what has `path` once these values are applied.

    Example:
        >>> loss = {"choices": [{"name": "nca", "params": {}}, {"name": "triplet", "params": {}}]}
        >>> path_in_file("loss.params.margin", {"loss": loss}, {"loss": "triplet"})
        'loss.choices.1.params.margin'
    """
    section: Any = settings
    found: list[str] = []
    for key in path.split("."):
        found.append(key)
        if isinstance(section, Mapping):
            section = section.get(key)
        elif isinstance(section, list):
            section = section[int(key)] if int(key) < len(section) else None
        choices = section.get("choices", []) if isinstance(section, Mapping) else []
        if choices and isinstance(choices[0], Mapping):
            place = [choice["name"] for choice in choices].index(values[".".join(found)])
            found += ["choices", str(place)]
            section = choices[place]
    return ".".join(found)


def active_ranges(space: Sequence[Range], values: Mapping[str, Any]) -> list[Range]:
    """The ranges whose condition holds."""
    return [item for item in space if item.condition is None or values.get(item.condition.path) == item.condition.value]


def start_values(space: Sequence[Range]) -> dict[str, Scalar]:
    """The values that the coordinate search starts with."""
    values: dict[str, Scalar] = {}
    for item in space:
        if active_ranges([item], values):
            values[item.path] = item.start
    return values


def grid_size(space: Sequence[Range]) -> int:
    """Number of points of the grid search.

    Example:
        >>> margin = Range("loss.choices.1.params.margin", low=0.0, high=1.0, condition=Condition("loss", "triplet"))
        >>> grid_size([Range("loss", choices=["nca", "triplet"]), margin, Range("seed", choices=[1, 2])])
        12
    """

    def size(condition: Condition | None) -> int:
        level = [item for item in space if item.condition == condition]
        return math.prod(sum(size(Condition(item.path, value)) for value in item.grid()) for item in level)

    return size(None)


def corner_values(space: Sequence[Range]) -> list[dict[str, Any]]:
    """Return points of the space that together cover both ends of every range and every choice.

    Example:
        >>> corner_values([Range("a", low=1, high=2), Range("b", choices=["x", "y", "z"])])
        [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'y'}, {'a': 1, 'b': 'z'}]
        >>> margin = Range("loss.choices.1.params.margin", low=0.0, high=1.0, condition=Condition("loss", "triplet"))
        >>> for point in corner_values([Range("loss", choices=["nca", "triplet"]), margin]):
        ...     print(point)
        {'loss': 'nca'}
        {'loss': 'triplet', 'loss.choices.1.params.margin': 0.0}
        {'loss': 'triplet', 'loss.choices.1.params.margin': 1.0}
    """

    def corners(condition: Condition | None) -> list[dict[str, Any]]:
        columns = [
            [
                {item.path: value, **inner}
                for value in item.choices or item.ends
                for inner in corners(Condition(item.path, value))
            ]
            for item in space
            if item.condition == condition
        ]
        count = max(map(len, columns), default=1)
        points = [[column[place % len(column)] for column in columns] for place in range(count)]
        return [{path: value for part in point for path, value in part.items()} for point in points]

    return corners(None)
