"""Turns the names and parameters of an experiment file into objects."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from anchorage.arguments import check_arguments
from anchorage.errors import UsageError
from anchorage.user_code import user_code

# Module a user may name -> extra of this project that installs it.
_EXTRAS = {"tensorflow_similarity": "similarity"}


def create(
    table: Mapping[str, type],
    name: str,
    params: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    base: type = object,
) -> Any:
    """Make one building block.

    Args:
        table: the known names, such as `LOSSES`.
        name: a key of `table`, or `"package.module:ClassName"` for a class
            that lives outside this repository.
        params: constructor arguments the user wrote; each must be one the
            constructor takes. They win over `facts`.
        facts: values only the data knows, such as `num_classes`; a
            constructor gets those it asks for and no others.
        base: class that a class from outside must be derived from.

    Raises:
        UsageError: `E_NAME_UNKNOWN` if the name leads to no such class,
            `E_PARAMETER_UNKNOWN` if a parameter is not taken,
            `E_PARAMETER_MISSING` if the constructor needs one that neither
            `params` nor `facts` hold and `E_PARAMETER_VALUE` if a value is
            of another kind than its annotation; `E_USER_CODE` for whatever
            a class from outside raises.
        ValueError: if a constructor of ours refuses a value.
    """
    cls = find_class(table, name, base)
    params, facts = params or {}, facts or {}
    if not isinstance(params, Mapping):
        raise UsageError("E_PARAMETER_VALUE", f"Expected parameters of {name!r} by name. Received: {params!r}")
    takes = constructor_parameters(cls)
    unknown = sorted(set(params) - set(takes))
    if unknown:
        raise UsageError("E_PARAMETER_UNKNOWN", f"{name!r} takes {sorted(takes)}. Received unknown: {unknown}")
    arguments = {**{key: value for key, value in facts.items() if key in takes}, **params}
    missing = sorted(
        key for key, default in takes.items() if default is inspect.Parameter.empty and key not in arguments
    )
    if missing:
        raise UsageError("E_PARAMETER_MISSING", f"{name!r} needs {missing}. Received: {sorted(arguments)}")
    try:
        check_arguments(constructor_signature(cls).parameters, arguments)
    except ValueError as error:
        raise UsageError("E_PARAMETER_VALUE", f"{name!r}: {error}") from None
    with user_code(name):
        return cls(**arguments)


def constructor_parameters(cls: Callable) -> dict[str, Any]:
    """Names and defaults of what the constructor takes by keyword; `inspect.Parameter.empty` marks a required one."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default for p in constructor_signature(cls).parameters.values() if p.kind in named}


def constructor_signature(cls: Any) -> inspect.Signature:
    """What a class, or a `partial` of one, takes to make an object.

    `inspect.signature` cannot tell before Python 3.11.3 for a Keras layer that inherits its `__init__`: there it is
    that of `Layer.__new__(*args, **kwargs)`.
    """
    made, given = (cls.func, cls.keywords) if isinstance(cls, partial) else (cls, {})
    if not inspect.isfunction(made.__init__):
        return inspect.signature(cls)
    return inspect.signature(partial(made.__init__, None, **given))


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the known name most like the given one, with a space before it; empty if none is like it.

    Example:
        >>> nearest("margn", ["distance", "margin"])
        " Did you mean 'margin'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def format_value(value: Any) -> str:
    """A setting in short, as in "class_batches classes=32 per_class=4"."""
    if isinstance(value, Mapping) and "name" in value:
        params = {key: each for key, each in (value.get("params") or {}).items() if each is not None}
        return " ".join([value["name"], *(f"{key}={each}" for key, each in params.items())])
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def find_class(table: Mapping[str, type], name: str, base: type = object) -> type:
    """The class a name stands for: an entry of `table`, or `"package.module:ClassName"`.

    Raises:
        UsageError: `E_NAME_UNKNOWN` if there is none, or it is not a subclass of `base`; `E_USER_CODE` if its module
            fails when it is imported.
    """
    if not isinstance(name, str):
        raise UsageError(
            "E_NAME_UNKNOWN", f"Expected one of {sorted(table)}, or 'package.module:ClassName'. Received: {name!r}"
        )
    if name in table:
        return table[name]
    if ":" not in name:
        raise UsageError(
            "E_NAME_UNKNOWN",
            f"Unknown name {name!r}. Known: {sorted(table)}, or 'package.module:ClassName'.{nearest(name, table)}",
        )
    found = import_named(name)
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise UsageError(
            "E_NAME_UNKNOWN",
            f"Expected a subclass of {base.__module__}.{base.__name__}. Received: {name!r} is {found!r}",
        )
    return found


def import_named(name: str) -> Any:
    """What `"package.module:name"` stands for.

    Raises:
        UsageError: `E_NAME_UNKNOWN` if there is no such module, or nothing of that name in it; `E_USER_CODE` if the
            module fails when it is imported.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise _not_importable(name, f"{module_name!r} is no module's name")
    with user_code(name):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise  # it is there, and lacks a module itself
            raise _not_importable(name, str(error), error.name or "") from error
        if not hasattr(module, attribute):
            raise _not_importable(name, f"{module_name} has no {attribute!r}")
        return getattr(module, attribute)


def _not_importable(name: str, why: str, missing: str = "") -> UsageError:
    extra = _EXTRAS.get(missing)
    hint = f" It comes with the extra {extra!r}: `uv sync --extra cpu --extra {extra}`." if extra else ""
    return UsageError("E_NAME_UNKNOWN", f"Expected an importable class. Received: {name!r} ({why}).{hint}")
