"""JSON values as parameters of nodes, which ML Metadata records as text."""

import json
from typing import Any
from urllib.parse import quote, unquote


def to_parameter(value: Any, *, encoded: bool = False, ordered: bool = False) -> str:
    """Write a JSON value as the text of a parameter.

    Args:
        value: a JSON value.
        encoded: whether to percent-encode the text, so that it has neither quotation marks nor backslashes.
        ordered: whether the order of keys has a meaning and is kept; otherwise they are sorted.
    """
    text = json.dumps(value, sort_keys=not ordered)
    return quote(text, safe=" ,:{}=/") if encoded else text


def from_parameter(text: str) -> Any:
    """Read the JSON value of a parameter, whether it is percent-encoded or not."""
    return json.loads(text if '"' in text or "%" not in text else unquote(text))
