"""What a person sees while the pipeline runs: one line a node, the rest in a log file."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HUSHED = ("absl", "apache_beam", "tensorflow", "tfx", "py.warnings", "kfp", "google")


class NodeProgress(logging.Handler):
    """Turns the runner's "Component X is running." and "... finished." into lines on the terminal.

    Args:
        nodes: ids of all nodes, in the order they run.
    """

    def __init__(self, nodes: list[str]):
        super().__init__(logging.INFO)
        self.seconds: dict[str, float] = {}
        self._nodes = nodes
        self._node = ""
        self._since = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage().rstrip(".").split()
        if len(words) == 4 and words[0] == "Component" and words[1] in self._nodes:
            if words[3] == "running":
                self._begin(words[1])
            elif words[3] == "finished":
                self.finish("done")

    def _begin(self, node: str) -> None:
        self._node, self._since = node, time.monotonic()
        print(f"{self._place(node)} {node}", flush=True)

    def finish(self, word: str) -> None:
        """Say that the node now running came to its end, unless that was said already."""
        if self._node:
            seconds = self.seconds[self._node] = time.monotonic() - self._since
            if seconds >= 1 or word != "done":
                print(f"{' ' * len(self._place(self._node))} {self._node}: {word} after {seconds:.0f} s", flush=True)
            self._node = ""

    def _place(self, node: str) -> str:
        return f"[{self._nodes.index(node) + 1:>2}/{len(self._nodes)}]"


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send the libraries' messages to a file instead of the terminal, where they would bury ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    from absl import logging as absl_logging

    # TensorFlow sets this level for a moment while it saves, and then back to what it was.
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers, root.level = [handler], logging.INFO
    logging.captureWarnings(True)
    hushed = {name: logging.getLogger(name) for name in _HUSHED}
    kept = {name: (logger.handlers[:], logger.propagate) for name, logger in hushed.items()}
    for logger in hushed.values():
        logger.handlers, logger.propagate = [], True
    try:
        yield
    finally:
        for name, (handlers, propagate) in kept.items():
            hushed[name].handlers, hushed[name].propagate = handlers, propagate
        root.handlers, root.level = before, level
        absl_logging.set_verbosity(verbosity)  # otherwise what is logged later ends up on the terminal
        logging.captureWarnings(False)
        handler.close()


def silence_tensorflow() -> None:
    """Ask TensorFlow's native code for silence, and for the same kernels on every CPU; does nothing once it is loaded.

    A loaded TensorFlow keeps the settings it has read. Child processes would read the new ones and, with other kernels,
    compute other last digits than this process.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
