"""Checks what a constructor is given against its annotations."""

import inspect
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np

_TOLD: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    NoneType: "None",
}


def check_arguments(parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]) -> None:
    """Raise unless every value is of the kind that its parameter is annotated with.

    Known are `bool`, `int`, `float` (finite; an integer will do), `str`, `None`, sequences and unions of these. The
    rest is left to the constructor, and so is a parameter whose default is of another kind, such as an infinite one.

    Args:
        parameters: of the constructor, by name.
        arguments: the values by the names of their parameters.

    Raises:
        ValueError: naming the parameter, what is expected and what came.
    """
    for name, value in arguments.items():
        hint, default = parameters[name].annotation, parameters[name].default
        if not _fits(value, hint) and (default is inspect.Parameter.empty or _fits(default, hint)):
            raise ValueError(f"`{name}` must be {_told(hint)}. Received: {name}={value!r}")


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Sequence:
        some = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
        return some and all(_fits(part, get_args(hint)[0]) for part in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, Real) and math.isfinite(value)
    kinds = {bool: bool | np.bool_, int: Integral, str: str, NoneType: NoneType}
    return hint not in _TOLD or isinstance(value, kinds[hint])


def _told(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_told(part) for part in get_args(hint))
    if get_origin(hint) is Sequence:
        part = get_args(hint)[0]
        return f"a list, each entry {_told(part)}" if part in _TOLD else "a list"
    return _TOLD[hint]
