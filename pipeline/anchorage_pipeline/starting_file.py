"""Format an experiment file with a comment for each value."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_WIDTH = 100
_ESCAPES = {'"': '\\"', "\\": "\\\\"}


class Line(NamedTuple):
    """A value of the file, with the comment above it; without a key, a comment alone."""

    key: str
    value: Any
    comment: str = ""


def format_file(tables: Mapping[str, Sequence[Line]], head: str = "", schema: str = "") -> str:
    """The text of a TOML file.

    Args:
        tables: the lines of each table by its name; "" is the top of the file.
        head: comment at the top.
        schema: JSON Schema beside the file, which editors find by the first line; "" for none.
    """
    top = "\n".join(filter(None, [f"#:schema {schema}" if schema else "", _comment(head) if head else ""]))
    blocks = [top] if top else []
    for name, lines in tables.items():
        rows = [f"[{name}]"] if name else []
        for line in lines:
            rows += [_comment(line.comment)] if line.comment else []
            rows += [f"{line.key} = {format_toml(line.value)}"] if line.key else []
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks) + "\n"


def format_toml(value: Any) -> str:
    """A value as TOML; mappings are inline tables with bare keys."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{"".join(map(_escape, value))}"'
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {format_toml(item)}' for key, item in value.items())} }}" if value else "{}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(format_toml, value))}]"
    return repr(value)


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _comment(text: str) -> str:
    """Wrapped comment lines; each line of the text starts a new one."""
    wrap = textwrap.TextWrapper(_WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
    printable = ["".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n")]
    return "\n".join(row for line in printable for row in wrap.wrap(line) or ["#"])
