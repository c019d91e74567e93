"""Reads the TOML files of experiments and comparisons."""

import tomllib
from pathlib import Path
from typing import Any

from anchorage.errors import UsageError

_DEPTH = 20  # tables and lists inside one another; an experiment needs seven


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The tables of a TOML file, in UTF-8 with or without a byte-order mark.

    Args:
        path: the file.
        kind: what it should hold, `"experiment"` or `"comparison"`: part of the error's code.

    Raises:
        UsageError: E_<KIND>_MISSING, or E_<KIND>_SYNTAX for a file that is no TOML or nests too deep.
    """
    code = f"E_{kind.upper()}"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        article = "an" if kind[0] in "aeiou" else "a"
        raise UsageError(f"{code}_MISSING", f"Expected {article} {kind} file. Found nothing at {path}") from None
    except RecursionError:
        document = None
    except (OSError, ValueError) as error:  # no TOML, not UTF-8, or an integer of thousands of digits
        raise UsageError(f"{code}_SYNTAX", f"{path} cannot be read as TOML: {error}") from None
    if document is None or _is_deep(document):
        raise UsageError(f"{code}_SYNTAX", f"Expected at most {_DEPTH} tables inside one another. {path} nests deeper")
    return document


def _is_deep(document: dict[str, Any]) -> bool:
    level: list[Any] = [document]
    for _ in range(_DEPTH):
        inside = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [item for values in inside for item in values if isinstance(item, dict | list)]
    return bool(level)
