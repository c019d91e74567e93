"""Validation of constructor arguments against their type annotations."""

import inspect
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np

_DESCRIPTIONS: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    NoneType: "None",
}


def check_arguments(parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]) -> None:
    """Raise unless every argument matches the annotation of its parameter.

    Checks `bool`, `int`, `float` (finite; integers are accepted), `str`, `None`, and sequences and unions of these.
    Other annotations are left to the constructor, and so are parameters whose own default does not match, such as an
    infinite one.

    Args:
        parameters: parameters of the constructor, by name.
        arguments: values, by parameter name.

    Raises:
        ValueError: with the parameter's name, the expected type and the value received.
    """
    for name, value in arguments.items():
        hint, default = parameters[name].annotation, parameters[name].default
        if not _matches(value, hint) and (default is inspect.Parameter.empty or _matches(default, hint)):
            raise ValueError(f"`{name}` must be {_describe(hint)}. Received: {name}={value!r}")


def _matches(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_matches(value, part) for part in get_args(hint))
    if get_origin(hint) is Sequence:
        is_list = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
        return is_list and all(_matches(part, get_args(hint)[0]) for part in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, Real) and math.isfinite(value)
    kinds = {bool: bool | np.bool_, int: Integral, str: str, NoneType: NoneType}
    return hint not in _DESCRIPTIONS or isinstance(value, kinds[hint])


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_describe(part) for part in get_args(hint))
    if get_origin(hint) is Sequence:
        part = get_args(hint)[0]
        return f"a list, each entry {_describe(part)}" if part in _DESCRIPTIONS else "a list"
    return _DESCRIPTIONS[hint]
