"""Output of the commands: the result on standard output, for people or as JSON, and the progress."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from anchorage.progress import shown_on
from anchorage_pipeline.bars import create_display

_PROGRESS: ContextVar[IO[str] | None] = ContextVar("progress", default=None)  # None: standard output
_DOCUMENT: ContextVar[IO[str] | None] = ContextVar("document", default=None)  # None: the result is for people


@contextmanager
def console(*, as_json: bool = False, quiet: bool = False) -> Iterator[None]:
    """Write the results of the commands inside as JSON, with the progress on standard error; or no progress at all."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        progress_token = _PROGRESS.set(nowhere if quiet else sys.stderr if as_json else None)
        document_token = _DOCUMENT.set(sys.stdout if as_json else None)
        try:
            with redirect_stdout(nowhere if as_json else sys.stdout):
                yield
        finally:
            _PROGRESS.reset(progress_token)
            _DOCUMENT.reset(document_token)


@contextmanager
def progress() -> Iterator[None]:
    """Treat what is printed inside as progress, which is no part of the result, and show bars of long work."""
    stream = _PROGRESS.get() or sys.stdout
    with redirect_stdout(stream), shown_on(create_display(stream)):
        yield


@contextmanager
def no_native_messages() -> Iterator[None]:
    """Drop what the native code of converters and runtimes writes to standard error; its errors are exceptions, too."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def answer(document: Mapping[str, Any] | list[Any]) -> None:
    """Write the result of a command as one JSON document, if that was asked for with `--json`."""
    if stream := _DOCUMENT.get():
        text = json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False)
        print(text, file=stream, flush=True)


def _plain(value: Any) -> Any:
    """The value in types of JSON, which has no NaN: null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
