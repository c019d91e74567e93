"""Redirects the output of libraries from the terminal to a log file, or drops it."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anchorage_pipeline.logs import create_formatter, is_json

_REDIRECTED = ("absl", "apache_beam", "tensorflow", "tfx", "py.warnings", "kfp", "google")


@contextmanager
def log_to(path: Path, secret: str = "") -> Iterator[None]:
    """Redirect the log messages of the libraries from the terminal to a file; with `--log json`, to both.

    Args:
        path: the file, to which messages are appended.
        secret: text that the libraries know and must not log, such as a password.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handlers: list[logging.Handler] = [handler]
    if is_json():  # for whoever collects the standard error of a container
        handlers.append(logging.StreamHandler(sys.stderr))
    for each in handlers:
        each.setFormatter(create_formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        if secret:
            each.addFilter(_Redaction(secret))
    from absl import logging as absl_logging

    # TensorFlow changes this level temporarily while it saves a model, and then restores it.
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers, root.level = handlers, logging.INFO
    logging.captureWarnings(True)
    loggers = [logging.getLogger(name) for name in _REDIRECTED]
    states = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [], True
    try:
        yield
    finally:
        for logger, own_handlers, propagate in states:
            logger.handlers, logger.propagate = own_handlers, propagate
        root.handlers, root.level = before, level
        absl_logging.set_verbosity(verbosity)  # otherwise later INFO messages appear on the terminal
        logging.captureWarnings(False)
        handler.close()


class _Redaction(logging.Filter):
    """Replaces a secret in all messages."""

    def __init__(self, secret: str):
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if self._secret in text:
            record.msg, record.args = text.replace(self._secret, "***"), None
        return True


def silence_tensorflow() -> None:
    """Disable the messages of TensorFlow's native code and fix its choice of kernels; no effect once it is loaded.

    TensorFlow reads these variables only when it is imported. Setting them later would affect child processes alone,
    whose kernels could then round differently from those of this process.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
