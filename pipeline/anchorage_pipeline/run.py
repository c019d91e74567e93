"""Run the whole pipeline on this machine, and raise if any node did not finish."""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorage.disk import check_free_space, disk_fault
from anchorage.errors import AnchorageError, DataError, GateError, ResourceError, UsageError, causes
from anchorage.release import current_version
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.graph import create_pipeline
from anchorage_pipeline.identity import fingerprint_run
from anchorage_pipeline.lock import hold_folder
from anchorage_pipeline.logs import set_context
from anchorage_pipeline.metadata import Metadata, choose_metadata
from anchorage_pipeline.metadata.server import PASSWORD, ServerMetadata
from anchorage_pipeline.metadata.sqlite import SqliteMetadata
from anchorage_pipeline.metadata.states import run_executions, state_of
from anchorage_pipeline.nodes import watch_nodes
from anchorage_pipeline.places import local_places, make_place
from anchorage_pipeline.progress import log_to
from anchorage_pipeline.results import shown
from anchorage_pipeline.spread.conditions import measured_spread
from anchorage_pipeline.tracing import annotate, span, trace_nodes
from anchorage_pipeline.upkeep import forget_lost_releases, rename_damaged_artifact

if TYPE_CHECKING:
    from tfx.dsl import Pipeline

_FINISHED = ("COMPLETE", "CACHED")


@dataclass
class RunSummary:
    """Outcome of a run.

    Args:
        states: state of each node by its id, such as `"COMPLETE"` or `"CACHED"`.
        outputs: path or URI of the folder of each output artifact by `"node.key"`.
        seconds: wall time of each node in seconds; that of a cached one is the time of the look-up.
        refused: error of the gate if it rejected the candidate, in which case later nodes did not run; else None.
        times: start and end of each node in milliseconds since 1970.
    """

    states: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    refused: GateError | None = None
    times: dict[str, tuple[int, int]] = field(default_factory=dict)


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
            the run folder, E_RUN_UNFINISHED if a node did not finish without an error, E_METADATA_SERVER; DataError
            E_METADATA_DAMAGED; UsageError E_METADATA_SHARED.
    """
    metadata = choose_metadata(experiment)
    with hold_folder(experiment.run_folder, experiment.name):
        if reset_metadata:
            _reset(metadata)
        with span("anchorage.run", anchorage__experiment=experiment.name):
            return _run(experiment, metadata, trigger)


def _reset(metadata: Metadata) -> None:
    if not isinstance(metadata, SqliteMetadata):
        raise UsageError(
            "E_METADATA_SHARED",
            f"`--reset-metadata` renames a file. Received: the database {metadata}, which other experiments may use. "
            "Give the experiment an empty database instead.",
        )
    if renamed := metadata.rename():
        print(f"moved the metadata of earlier runs to {renamed}")


def _run(experiment: Experiment, metadata: Metadata, trigger: Mapping[str, Any] | None) -> RunSummary:
    places = local_places(experiment)
    artifacts = places.pipeline_root
    log_file = experiment.run_folder / "run.log"
    print(f"running {experiment.name}; log file: {shown(log_file)}")
    for folder in (artifacts, places.releases):
        make_place(folder)
    check_free_space(experiment.run_folder, 0)
    forget_lost_releases(artifacts)
    fingerprints = fingerprint_run(experiment)
    spread = measured_spread(experiment, fingerprints.data)
    refused = None
    with suppress(AnchorageError):
        set_context(run=fingerprints.run[:12], node=None, release=current_version(experiment.release_folder))
    annotate(anchorage__run=fingerprints.run[:12])
    with log_to(log_file, secret=os.environ.get(PASSWORD, "")):
        metadata.prepare(artifacts)
        pipeline = create_pipeline(experiment, places, fingerprints, spread, trigger)
        nodes = [component.id for component in pipeline.components]
        run = f"{datetime.now().isoformat()}-{secrets.token_hex(4)}"
        try:
            with watch_nodes(metadata, run, nodes):
                run_nodes(pipeline, run)
        except BaseException as error:
            fault = find_cause(error, experiment.run_folder)
            if fault is error and isinstance(metadata, ServerMetadata) and metadata.caused(error):
                fault = metadata.fault(error)
            if isinstance(fault, DataError):
                fault = rename_damaged_artifact(artifacts, fault)
            if not isinstance(fault, GateError):
                trace_nodes(lambda: read_run(metadata, run))
                raise fault from (None if fault is error else error)
            refused = fault
        summary = read_run(metadata, run)
    trace_nodes(lambda: summary)
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


def run_nodes(pipeline: "Pipeline", run: str) -> None:
    """Run the nodes of a pipeline in this process, one after the other.

    Args:
        pipeline: the TFX pipeline.
        run: name of the run in ML Metadata; unique, also among the experiments that share a store.
    """
    from tfx.dsl.compiler import constants
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner
    from tfx.orchestration.portable import runtime_parameter_utils

    class NamedRunner(LocalDagRunner):
        def run_with_ir(self, pipeline, run_options=None):
            runtime_parameter_utils.substitute_runtime_parameter(
                pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run}
            )
            super().run_with_ir(pipeline, run_options)

    NamedRunner().run(pipeline)


def read_run(metadata: Metadata, run: str) -> RunSummary:
    """Read the states and outputs of a run from ML Metadata; nodes that have not started are left out."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    store, summary = metadata.open(), RunSummary()
    for node, execution in run_executions(store, run).items():
        summary.states[node], summary.seconds[node] = state_of(execution)
        summary.times[node] = execution.create_time_since_epoch, execution.last_update_time_since_epoch
        for event in store.get_events_by_execution_ids([execution.id]):
            if event.type == pb.Event.OUTPUT:
                [artifact] = store.get_artifacts_by_id([event.artifact_id])
                summary.outputs[f"{node}.{event.path.steps[0].key}"] = artifact.uri
    return summary
