"""Run the whole pipeline on this machine, and raise if any node did not finish."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anchorage.disk import check_free_space, disk_fault, make_folder
from anchorage.errors import AnchorageError, DataError, GateError, ResourceError, causes
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.graph import create_pipeline, fingerprint_run, local_places
from anchorage_pipeline.lock import hold_folder
from anchorage_pipeline.metadata import open_metadata, prepare_metadata, rename_metadata
from anchorage_pipeline.nodes import watch_nodes
from anchorage_pipeline.progress import log_to
from anchorage_pipeline.results import shown
from anchorage_pipeline.spread.conditions import measured_spread
from anchorage_pipeline.upkeep import forget_lost_releases, rename_damaged_artifact

_FINISHED = ("COMPLETE", "CACHED")


@dataclass
class RunSummary:
    """Outcome of a run.

    Args:
        states: state of each node by its id, such as `"COMPLETE"` or `"CACHED"`.
        outputs: folder of each output artifact by `"node.key"`.
        seconds: wall time of each node in seconds; that of a cached one is the time of the look-up.
        refused: error of the gate if it rejected the candidate, in which case later nodes did not run; else None.
    """

    states: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    refused: GateError | None = None


def run_experiment(
    experiment: Experiment, *, reset_metadata: bool = False, trigger: Mapping[str, Any] | None = None
) -> RunSummary:
    """Run every node of the pipeline; unchanged nodes are taken from the cache.

    Args:
        experiment: the experiment to run.
        reset_metadata: whether to rename the metadata store of earlier runs first, so that no node is cached.
        trigger: why a scheduled run started, for the report and the manifest.

    Raises:
        AnchorageError: the error of a node, with its exit status; ResourceError E_RUN_LOCKED if another command uses
            the run folder, E_RUN_UNFINISHED if a node did not finish without an error; DataError E_METADATA_DAMAGED.
    """
    with hold_folder(experiment.run_folder, experiment.name):
        if reset_metadata and (renamed := rename_metadata(Path(str(local_places(experiment).metadata)))):
            print(f"moved the metadata of earlier runs to {renamed}")
        return _run(experiment, trigger)


def _run(experiment: Experiment, trigger: Mapping[str, Any] | None) -> RunSummary:
    places = local_places(experiment)
    artifacts, metadata = Path(places.pipeline_root), Path(str(places.metadata))
    log_file = experiment.run_folder / "run.log"
    print(f"running {experiment.name}; log file: {shown(log_file)}")
    for folder in (artifacts, experiment.release_folder):
        make_folder(folder)
    check_free_space(experiment.run_folder, 0)
    forget_lost_releases(artifacts)
    fingerprints = fingerprint_run(experiment)
    spread = measured_spread(experiment, fingerprints.data)
    refused = None
    with log_to(log_file):
        prepare_metadata(metadata, artifacts)
        from tfx.orchestration.local.local_dag_runner import LocalDagRunner

        pipeline = create_pipeline(experiment, places, fingerprints, spread, trigger)
        nodes = [component.id for component in pipeline.components]
        try:
            with watch_nodes(metadata, nodes):
                LocalDagRunner().run(pipeline)
        except BaseException as error:
            fault = find_cause(error, experiment.run_folder)
            if isinstance(fault, DataError):
                fault = rename_damaged_artifact(artifacts, fault)
            if not isinstance(fault, GateError):
                raise fault from (None if fault is error else error)
            refused = fault
        summary = read_latest_run(metadata)
    summary.refused = refused
    if refused is None:
        check_finished(summary, nodes, log_file)
    summary.states = {node: summary.states[node] for node in nodes if node in summary.states}
    return summary


def find_cause(error: BaseException, folder: Path) -> BaseException:
    """Unwrap an error of TFX or Beam: an `AnchorageError` among its causes, else a disk error, else the error itself.

    Args:
        error: the exception raised by the runner.
        folder: folder that the run writes to.
    """
    own = next((cause for cause in causes(error) if isinstance(cause, AnchorageError)), None)
    return own or disk_fault(error, folder) or error


def check_finished(summary: RunSummary, nodes: list[str], log_file: Path) -> None:
    """Raise unless all nodes finished: TFX skips a node whose inputs it cannot resolve, and returns normally."""
    states = {node: summary.states.get(node, "not run") for node in nodes}
    unfinished = [f"{node} ({state})" for node, state in states.items() if state not in _FINISHED]
    if unfinished:
        raise ResourceError(
            "E_RUN_UNFINISHED",
            f"Expected every node to be COMPLETE or CACHED. Received: {', '.join(unfinished)}. See {log_file}",
        )


def read_latest_run(metadata: Path) -> RunSummary:
    """Read the states and outputs of the latest run from an ML Metadata store.

    Raises:
        AnchorageError: E_NO_RUN, if the store contains no run.
    """
    from ml_metadata.proto import metadata_store_pb2 as pb

    if not metadata.is_file():
        raise AnchorageError("E_NO_RUN", f"Expected the metadata of a run at {metadata}. Found no file")
    store = open_metadata(metadata)
    runs = store.get_contexts_by_type("pipeline_run")
    if not runs:
        raise AnchorageError("E_NO_RUN", f"Expected the metadata of a run in {metadata}. It contains no run")
    latest = max(runs, key=lambda context: context.id)
    summary = RunSummary()
    for execution in store.get_executions_by_context(latest.id):
        node = execution.properties["pipeline_node"].string_value or _node_of(store, execution)
        summary.states[node] = pb.Execution.State.Name(execution.last_known_state)
        duration = execution.last_update_time_since_epoch - execution.create_time_since_epoch
        summary.seconds[node] = duration / 1000
        for event in store.get_events_by_execution_ids([execution.id]):
            if event.type == pb.Event.OUTPUT:
                [artifact] = store.get_artifacts_by_id([event.artifact_id])
                summary.outputs[f"{node}.{event.path.steps[0].key}"] = Path(artifact.uri)
    return summary


def _node_of(store, execution) -> str:
    """Id of the node of an execution, whose context is named "<pipeline>.<node>"."""
    contexts = store.get_contexts_by_execution(execution.id)
    return next(context.name.partition(".")[2] for context in contexts if context.type == "node")
