"""Creation of objects from the names and parameters of an experiment file."""

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from anchorage.arguments import check_arguments
from anchorage.errors import UsageError
from anchorage.user_code import user_code

# Optional module -> extra of this project that installs it.
_EXTRAS = {"tensorflow_similarity": "similarity"}


def create(
    table: Mapping[str, type],
    name: str,
    params: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    base: type = object,
) -> Any:
    """Create an object from a class name and parameters.

    Args:
        table: class of each known name, such as `LOSSES`.
        name: a key of `table`, or `"package.module:ClassName"` for a user's
            own class.
        params: constructor arguments from the user; the constructor must
            accept all of them. They override `facts`.
        facts: values that depend on the data, such as `num_classes`; only
            those that the constructor has a parameter for are passed.
        base: required base class of a user's own class.

    Raises:
        UsageError: `E_NAME_UNKNOWN` if there is no such class,
            `E_PARAMETER_UNKNOWN` if the constructor has no such parameter,
            `E_PARAMETER_MISSING` if a required parameter is neither in
            `params` nor in `facts`, `E_PARAMETER_VALUE` if a value does not
            match its annotation; `E_USER_CODE` for any exception in a
            user's own class.
        ValueError: if a built-in class rejects a value.
    """
    cls = find_class(table, name, base)
    params, facts = params or {}, facts or {}
    if not isinstance(params, Mapping):
        raise UsageError("E_PARAMETER_VALUE", f"Expected parameters of {name!r} by name. Received: {params!r}")
    accepted = constructor_parameters(cls)
    unknown = sorted(set(params) - set(accepted))
    if unknown:
        raise UsageError("E_PARAMETER_UNKNOWN", f"{name!r} takes {sorted(accepted)}. Received unknown: {unknown}")
    arguments = {**{key: value for key, value in facts.items() if key in accepted}, **params}
    missing = sorted(
        key for key, default in accepted.items() if default is inspect.Parameter.empty and key not in arguments
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
    """Return the keyword parameters of a constructor: default by name, `inspect.Parameter.empty` if required."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default for p in constructor_signature(cls).parameters.values() if p.kind in named}


def constructor_signature(cls: Any) -> inspect.Signature:
    """Return the constructor's signature of a class, or of a `partial` of one.

    Before Python 3.11.3, `inspect.signature` of a Keras layer that inherits its `__init__` returns that of
    `Layer.__new__(*args, **kwargs)`.
    """
    target, preset = (cls.func, cls.keywords) if isinstance(cls, partial) else (cls, {})
    if not inspect.isfunction(target.__init__):
        return inspect.signature(cls)
    return inspect.signature(partial(target.__init__, None, **preset))


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the most similar known name, as a sentence after a space; empty if none is similar.

    Example:
        >>> nearest("margn", ["distance", "margin"])
        " Did you mean 'margin'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def format_value(value: Any) -> str:
    """Format a setting briefly, as in "class_batches classes=32 per_class=4"."""
    if isinstance(value, Mapping) and "name" in value:
        params = {key: each for key, each in (value.get("params") or {}).items() if each is not None}
        return " ".join([value["name"], *(f"{key}={each}" for key, each in params.items())])
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def find_class(table: Mapping[str, type], name: str, base: type = object) -> type:
    """Return the class of a name: an entry of `table`, or `"package.module:ClassName"`.

    Raises:
        UsageError: `E_NAME_UNKNOWN` if there is none, or it is not a subclass of `base`; `E_USER_CODE` if the import
            of its module fails.
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
    cls = import_named(name)
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise UsageError(
            "E_NAME_UNKNOWN",
            f"Expected a subclass of {base.__module__}.{base.__name__}. Received: {name!r} is {cls!r}",
        )
    return cls


def import_named(name: str) -> Any:
    """Import the object named `"package.module:name"`.

    Raises:
        UsageError: `E_NAME_UNKNOWN` if the module does not exist or has no such attribute; `E_USER_CODE` if its import
            fails.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise _not_importable(name, f"{module_name!r} is not a valid module name")
    with user_code(name):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the module exists, but one of its own imports is missing
            raise _not_importable(name, str(error), error.name or "") from error
        if not hasattr(module, attribute):
            raise _not_importable(name, f"{module_name} has no {attribute!r}")
        return getattr(module, attribute)


def _not_importable(name: str, why: str, missing: str = "") -> UsageError:
    extra = _EXTRAS.get(missing)
    hint = f" Install the extra {extra!r}: `uv sync --extra cpu --extra {extra}`." if extra else ""
    return UsageError("E_NAME_UNKNOWN", f"Expected an importable class. Received: {name!r} ({why}).{hint}")
