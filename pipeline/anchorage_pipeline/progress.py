"""Progress of the pipeline on the terminal, one line per node; everything else goes to a log file."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REDIRECTED = ("absl", "apache_beam", "tensorflow", "tfx", "py.warnings", "kfp", "google")


class NodeProgress(logging.Handler):
    """Prints a line when the runner logs "Component X is running." or "Component X is finished.".

    Args:
        nodes: ids of all nodes in execution order.
    """

    def __init__(self, nodes: list[str]):
        super().__init__(logging.INFO)
        self.seconds: dict[str, float] = {}
        self._nodes = nodes
        self._node = ""
        self._started = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage().rstrip(".").split()
        if len(words) == 4 and words[0] == "Component" and words[1] in self._nodes:
            if words[3] == "running":
                self._start(words[1])
            elif words[3] == "finished":
                self.finish("done")

    def _start(self, node: str) -> None:
        self._node, self._started = node, time.monotonic()
        print(f"{self._position(node)} {node}", flush=True)

    def finish(self, state: str) -> None:
        """Print the state and duration of the running node, if there is one."""
        if self._node:
            seconds = self.seconds[self._node] = time.monotonic() - self._started
            if seconds >= 1 or state != "done":
                indent = " " * len(self._position(self._node))
                print(f"{indent} {self._node}: {state} after {seconds:.0f} s", flush=True)
            self._node = ""

    def _position(self, node: str) -> str:
        return f"[{self._nodes.index(node) + 1:>2}/{len(self._nodes)}]"


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Redirect the log messages of the libraries from the terminal to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    from absl import logging as absl_logging

    # TensorFlow changes this level temporarily while it saves a model, and then restores it.
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers, root.level = [handler], logging.INFO
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
        root.handlers, root.level = handlers, level
        absl_logging.set_verbosity(verbosity)  # otherwise later INFO messages appear on the terminal
        logging.captureWarnings(False)
        handler.close()


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
