"""Structured logs: one JSON object per line, with the run, the node and the release that it is about."""

import argparse
import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]

_CONTEXT: dict[str, Any] = {"run": None, "node": None, "release": None}
_format: LogFormat = "text"
_STARTS, _ENDS = "Component %s is running.", "Component %s is finished."  # messages of TFX's local runner
_PUBLISHED = "published release %d in %s"  # message of PublishRelease


def set_context(**values: Any) -> None:
    """Set `run`, `node` or `release` of the lines that follow, in this process."""
    _CONTEXT.update(values)


class JsonLines(logging.Formatter):
    """Formats a record as an object with `time` (UTC), `level`, `logger`, `message`, `run`, `node` and `release`.

    A record of TFX's runner that says which node starts or ends changes `node`, one of PublishRelease `release`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        if record.msg == _STARTS and record.args:
            set_context(node=_first(record))
        elif record.msg == _PUBLISHED and record.args:
            set_context(release=_first(record))
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_CONTEXT,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.msg == _ENDS:
            set_context(node=None)
        return json.dumps(line, ensure_ascii=False, default=str)


def _first(record: logging.LogRecord) -> Any:
    return record.args[0] if isinstance(record.args, tuple) else None


def choose_format(log: LogFormat) -> None:
    """Set the format of the logs of this process."""
    global _format
    _format = log


def is_json() -> bool:
    """Whether logs are objects."""
    return _format == "json"


def create_formatter(text: str) -> logging.Formatter:
    """Return the formatter of the logs; `text` is the format of lines for people."""
    return JsonLines() if is_json() else logging.Formatter(text)


def add_log(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the format."""
    parser.add_argument(
        "--log",
        choices=["text", "json"],
        default="text",
        help="json: logs to standard error, an object with run, node and release per line (default: %(default)s)",
    )
