"""The states of a run's nodes, from real ML Metadata stores."""

import sqlite3

import pytest
from ml_metadata.proto import metadata_store_pb2 as pb

from anchorage_pipeline.metadata import NodeState
from anchorage_pipeline.metadata.sqlite import SqliteMetadata
from anchorage_pipeline.nodes import NodePrinter, watch_nodes

_STATE = pb.Execution.State


class Recorder:
    """Records runs as TFX does: each execution belongs to the contexts of its run and of its node."""

    def __init__(self, metadata):
        self.store = metadata.open()
        kinds = ("pipeline_run", "node")
        self.kinds = {kind: self.store.put_context_type(pb.ContextType(name=kind)) for kind in kinds}
        self.kind = self.store.put_execution_type(pb.ExecutionType(name="component"))
        self.executions = {}

    def start_run(self, name):
        [self.run] = self.store.put_contexts([pb.Context(type_id=self.kinds["pipeline_run"], name=name)])

    def put(self, node, state):
        """Record a new execution of a node in the run, or the new state of its last one."""
        execution = pb.Execution(type_id=self.kind, last_known_state=state)
        if node in self.executions:
            execution.id = self.executions[node]
            self.store.put_executions([execution])
            return
        context = self.store.get_context_by_type_and_name("node", f"toy.{node}")
        node_id = context.id if context else self._put_node(node)
        contexts = self.store.get_contexts_by_id([self.run, node_id])
        self.executions[node] = self.store.put_execution(execution, [], contexts)[0]

    def _put_node(self, node):
        return self.store.put_contexts([pb.Context(type_id=self.kinds["node"], name=f"toy.{node}")])[0]


@pytest.fixture
def metadata(tmp_path):
    metadata = SqliteMetadata(tmp_path / "metadata.sqlite")
    metadata.prepare(tmp_path / "artifacts")
    return metadata


def test_states_are_those_of_the_named_run(metadata):
    recorder = Recorder(metadata)
    assert metadata.read_states("first") == {}
    recorder.start_run("first")
    recorder.put("Trainer", _STATE.FAILED)
    recorder.executions.clear()
    recorder.start_run("second")
    for node, states in {
        "Pack": [_STATE.CACHED],
        "Trainer": [_STATE.RUNNING, _STATE.COMPLETE],
        "Index": [_STATE.NEW],
    }.items():
        for state in states:
            recorder.put(node, state)
    assert {node: state for node, (state, _) in metadata.read_states("first").items()} == {"Trainer": "FAILED"}
    assert {node: state for node, (state, _) in metadata.read_states("second").items()} == {
        "Pack": "CACHED",
        "Trainer": "COMPLETE",
        "Index": "NEW",
    }


def test_seconds_are_the_time_between_start_and_last_change(metadata):
    recorder = Recorder(metadata)
    recorder.start_run("first")
    recorder.put("Trainer", _STATE.COMPLETE)
    connection = sqlite3.connect(metadata.path)
    with connection:
        connection.execute(
            "UPDATE Execution SET create_time_since_epoch = 5000, last_update_time_since_epoch = 77500 WHERE id = ?",
            (recorder.executions["Trainer"],),
        )
    connection.close()
    assert metadata.read_states("first") == {"Trainer": NodeState("COMPLETE", 72.5)}


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0" + b"nonsense" * 1000])
def test_a_store_that_is_not_there_yet_or_damaged_has_no_states(tmp_path, content):
    path = tmp_path / "metadata.sqlite"
    if content is not None:
        path.write_bytes(content)
    assert SqliteMetadata(path).read_states("first") is None


def test_a_reader_blocks_no_writer_and_shows_nothing_half_written(metadata):
    recorder = Recorder(metadata)
    recorder.start_run("first")
    recorder.put("Trainer", _STATE.RUNNING)
    writer = sqlite3.connect(metadata.path, timeout=0, isolation_level=None)  # raises at once if it would have to wait
    writer.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
    for state in ("COMPLETE", "FAILED"):
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("UPDATE Execution SET last_known_state = ?", (_STATE.Value(state),))
        assert metadata.read_states("first") is None
        writer.execute("COMMIT")
        assert metadata.read_states("first")["Trainer"].state == state
    writer.close()


def test_what_was_read_during_a_transaction_is_discarded(metadata, monkeypatch):
    recorder = Recorder(metadata)
    recorder.start_run("first")
    recorder.put("Trainer", _STATE.RUNNING)
    connect = sqlite3.connect

    def late(*arguments, **options):
        monkeypatch.setattr(sqlite3, "connect", connect)
        recorder.put("Trainer", _STATE.COMPLETE)
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", late)
    assert metadata.read_states("first") is None
    assert metadata.read_states("first")["Trainer"].state == "COMPLETE"


def test_a_run_is_printed_as_its_nodes_start_and_end(metadata, capsys, monkeypatch):
    monkeypatch.setattr("anchorage_pipeline.nodes._INTERVAL", 0.01)
    recorder = Recorder(metadata)
    recorder.start_run("earlier")
    recorder.put("Index", _STATE.COMPLETE)
    recorder.executions.clear()
    with watch_nodes(metadata, "now", ["Pack", "Trainer", "Index"]):
        recorder.start_run("now")
        recorder.put("Pack", _STATE.CACHED)
        recorder.put("Trainer", _STATE.FAILED)
    assert capsys.readouterr().out == "[ 1/3] Pack: cached\n[ 2/3] Trainer: failed after 0 s\n"


def test_lines_of_a_node(capsys):
    printer = NodePrinter(["Pack", "Trainer"])
    printer.show({"Trainer": NodeState("NEW", 0.0)})
    printer.show({"Trainer": NodeState("RUNNING", 0.0)})
    printer.show({"Trainer": NodeState("RUNNING", 0.0)})
    printer.finish()
    printer.show({"Trainer": NodeState("COMPLETE", 71.6)})
    printer.finish()
    assert capsys.readouterr().out.splitlines() == [
        "[ 2/2] Trainer",
        "       Trainer: stopped",
        "       Trainer: complete after 72 s",
    ]
