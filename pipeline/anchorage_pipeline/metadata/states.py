"""States of the nodes of a run, as ML Metadata records them."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb


class NodeState(NamedTuple):
    """State of a node in a run.

    Args:
        state: name of the last known state of its execution, such as `"RUNNING"`, `"COMPLETE"` or `"CACHED"`.
        seconds: time from the start of the execution to its last change.
    """

    state: str
    seconds: float


def run_executions(store: "MetadataStore", run: str) -> "dict[str, pb.Execution]":
    """The last execution of each node in a run, in the order of the starts.

    Args:
        store: an open store.
        run: name of the run's context.

    Returns:
        Executions by node; empty if no node has started.
    """
    context = store.get_context_by_type_and_name("pipeline_run", run)
    if context is None:
        return {}
    executions = sorted(store.get_executions_by_context(context.id), key=lambda execution: execution.id)
    return {_node_of(store, execution): execution for execution in executions}


def state_of(execution: "pb.Execution") -> NodeState:
    """The state of an execution."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    duration = execution.last_update_time_since_epoch - execution.create_time_since_epoch
    return NodeState(pb.Execution.State.Name(execution.last_known_state), duration / 1000)


def _node_of(store: "MetadataStore", execution: "pb.Execution") -> str:
    """Id of the node of an execution, whose context is named "<pipeline>.<node>"."""
    contexts = store.get_contexts_by_execution(execution.id)
    return next(context.name.partition(".")[2] for context in contexts if context.type == "node")
