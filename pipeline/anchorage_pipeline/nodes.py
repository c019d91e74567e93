"""Progress of a run on the terminal: the state of each node, as recorded in ML Metadata."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from anchorage.progress import advance, task
from anchorage_pipeline.metadata import Metadata, NodeState

_TASK = "nodes"
_INTERVAL = 0.5  # seconds between two looks at the store
_UNFINISHED = ("NEW", "RUNNING")


@contextmanager
def watch_nodes(metadata: Metadata, run: str, nodes: Sequence[str]) -> Iterator[None]:
    """Print the states of the nodes of the run that starts inside, as they change.

    Args:
        metadata: the store of ML Metadata, which need not exist yet.
        run: name of the run.
        nodes: ids of all nodes in execution order.
    """
    printer, ended = NodePrinter(nodes), threading.Event()

    def look() -> None:
        if states := metadata.read_states(run):
            printer.show(states)

    def watch() -> None:
        while not ended.wait(_INTERVAL):
            look()

    thread = threading.Thread(target=watch, name="nodes", daemon=True)
    with task(_TASK, len(nodes)):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            look()
            printer.finish()


class NodePrinter:
    """Prints a line when a node starts, and one when it ends.

    Args:
        nodes: ids of all nodes in execution order.
    """

    def __init__(self, nodes: Sequence[str]):
        self._positions = {node: f"[{place:>2}/{len(nodes)}]" for place, node in enumerate(nodes, 1)}
        self._shown: dict[str, str] = {}

    def show(self, states: Mapping[str, NodeState]) -> None:
        """Print what changed since the last call."""
        for node, (state, seconds) in states.items():
            before = self._shown.get(node)
            if node not in self._positions or state == before:
                continue
            self._shown[node] = state
            position = self._positions[node]
            if state in _UNFINISHED:
                if before is None:
                    print(f"{position} {node}", flush=True)
                    advance(_TASK, 0, node)
                continue
            advance(_TASK)
            text = "cached" if state == "CACHED" else f"{state.lower()} after {seconds:.0f} s"
            print(f"{position if before is None else ' ' * len(position)} {node}: {text}", flush=True)

    def finish(self) -> None:
        """Print which nodes were stopped before they had ended."""
        for node, state in self._shown.items():
            if state in _UNFINISHED:
                print(f"{' ' * len(self._positions[node])} {node}: stopped", flush=True)
