"""Optional packages: what to install where one is missing."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from anchorage.errors import UsageError


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Name the extra to install where an import in this context fails.

    Args:
        extra: extra of the pipeline that installs the packages.
        what: what needs them, the beginning of the message.

    Raises:
        UsageError: E_EXTRA_MISSING.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            "E_EXTRA_MISSING",
            f"{what} needs packages that are not installed ({error}). {_remedy(extra)}",
        ) from error


def require_package(module: str, extra: str = "") -> None:
    """Raise unless an optional package is installed; it is not imported.

    Args:
        module: its top-level module.
        extra: extra of the pipeline that installs it; default: that of the name of the module.

    Raises:
        UsageError: E_EXTRA_MISSING.
    """
    if importlib.util.find_spec(module) is None:
        raise UsageError(
            "E_EXTRA_MISSING",
            f"Expected the package {module}. It is not installed. {_remedy(extra or module)}",
        )


def _remedy(extra: str) -> str:
    return f"What is missing comes with the extra {extra!r}: `uv sync --extra cpu --extra {extra}`"
