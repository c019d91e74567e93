"""Read the TOML files of experiments and comparisons."""

import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorage.errors import UsageError

_DEPTH = 20  # nesting limit for tables and lists; an experiment needs seven levels


@dataclass(frozen=True)
class Source:
    """Source of the settings of an experiment.

    Args:
        path: the experiment file, as given on the command line.
        text: its content.
        overrides: the values of `--set`, such as `"loss.params.margin=0.2"`.
    """

    path: str
    text: str
    overrides: tuple[str, ...] = ()

    def command(self, verb: str) -> str:
        """The command line that runs this experiment, for a shell."""
        settings = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["anchorage", verb, self.path, *settings])


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """Read a TOML file in UTF-8, with or without a byte-order mark.

    Args:
        path: the file.
        kind: expected kind of document, `"experiment"` or `"comparison"`; used in messages and error codes.

    Raises:
        UsageError: E_<KIND>_MISSING, or E_<KIND>_SYNTAX for a file that is not TOML or nests too deeply.
    """
    code = f"E_{kind.upper()}"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        article = "an" if kind[0] in "aeiou" else "a"
        raise UsageError(f"{code}_MISSING", f"Expected {article} {kind} file. Found nothing at {path}") from None
    except RecursionError:
        document = None
    except (OSError, ValueError) as error:  # not TOML, not UTF-8, or an integer of thousands of digits
        raise UsageError(f"{code}_SYNTAX", f"{path} cannot be read as TOML: {error}") from None
    if document is None or _is_deep(document):
        raise UsageError(f"{code}_SYNTAX", f"Expected at most {_DEPTH} levels of nested tables. {path} has more")
    return document


def _is_deep(document: dict[str, Any]) -> bool:
    level: list[Any] = [document]
    for _ in range(_DEPTH):
        children = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [item for values in children for item in values if isinstance(item, dict | list)]
    return bool(level)
