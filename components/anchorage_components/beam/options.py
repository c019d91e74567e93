"""Options for Beam: the runner, and those that would lose data or load programs."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)

from anchorage.errors import UsageError

# Not Beam's default, the DirectRunner: it first tries to download and start Prism, a program for another runner. TFX
# gives its nodes no runner, so that the default is set.
LOCAL_RUNNER = StandardOptions.DEFAULT_RUNNER = "FnApiRunner"

# Without an image, TFX builds a source distribution of itself for every Beam node that has options, and leaves it in
# the folder for temporary files. The local runner ignores the image.
IMAGE, NO_IMAGE = "--sdk_container_image", "--sdk_container_image=unused"

_LOCAL = ("DirectRunner", "FnApiRunner")
_PROCESSES = "multi_processing"
_THREADS = "TF_NUM_INTRAOP_THREADS"  # read by TensorFlow when it starts


def beam_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Parse command-line options for Beam; without a runner, Beam works in this process.

    Raises:
        UsageError: `E_BEAM_OPTION` for an unknown option, `E_BEAM_RUNNER` for a runner that loses data.
    """
    try:
        with redirect_stderr(io.StringIO()) as errors:
            options = PipelineOptions(list(beam_args))
            known = options.get_all_options(retain_unknown_options=False)
            unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    except SystemExit:  # of argparse, for a wrong value
        reason = errors.getvalue().strip().rpartition("error: ")[2]
        raise UsageError("E_BEAM_OPTION", f"Expected options of Beam after `--`. Received: {reason}") from None
    if unknown:  # Beam would only log a warning and use its defaults
        raise UsageError("E_BEAM_OPTION", f"Expected options of Beam after `--`. Received: --{unknown[0]}")
    standard = options.view_as(StandardOptions)
    name = (standard.runner or LOCAL_RUNNER).rpartition(".")[2]
    if name.lower().startswith("dask"):
        raise UsageError(
            "E_BEAM_RUNNER",
            "Expected a runner that keeps all data. Received: Dask's, which loses what is written at the end of a "
            "bundle and reports success (seen with Beam 2.77). Take PortableRunner, FlinkRunner, SparkRunner or "
            "DataflowRunner, or the local one with --direct_running_mode=multi_processing --direct_num_workers=2",
        )
    if name in _LOCAL:
        standard.runner = LOCAL_RUNNER
    return options


def is_in_process(options: PipelineOptions) -> bool:
    """Whether Beam works in this process, so that its workers can neither be lost nor hang unseen."""
    runner = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    return runner in _LOCAL and options.view_as(DirectOptions).direct_running_mode != _PROCESSES


def node_flags(flags: Sequence[str], *, is_shared: bool = True) -> list[str]:
    """The options for the nodes of a TFX pipeline: none if no flags are given.

    Args:
        flags: options for Beam.
        is_shared: whether workers on other machines see the files of a node; not those copied from an object store.

    Raises:
        UsageError: as `beam_options`; `E_BEAM_OPTION` if Dataflow has no image for its workers; `E_BEAM_RUNNER` for
            workers on other machines that do not see the files.
    """
    if not flags:
        return []
    options = beam_options(flags)
    runner = options.view_as(StandardOptions).runner or LOCAL_RUNNER
    if not is_shared and runner not in _LOCAL:
        raise UsageError(
            "E_BEAM_RUNNER",
            "Expected workers on the machine of the node, since `data.path` or `runs` is in an object store, of which "
            f"a node reads and writes local copies. Received: {runner}. Take --direct_running_mode=multi_processing "
            "--direct_num_workers=2, or a path of a volume that all workers mount",
        )
    given = [flag for flag in flags if not flag.startswith("--runner=")]
    if not options.view_as(WorkerOptions).sdk_container_image:
        if runner.endswith("DataflowRunner"):
            raise UsageError(
                "E_BEAM_OPTION",
                "Expected --sdk_container_image=IMAGE, an image with this project, for the workers of Dataflow. "
                "Received: none",
            )
        given.append(NO_IMAGE)
    return [f"--runner={runner}", *given]


@contextmanager
def shared_cores(options: PipelineOptions) -> Iterator[None]:
    """Give each worker process on this machine its share of the cores; TensorFlow would use all in each of them."""
    direct = options.view_as(DirectOptions)
    workers = direct.direct_num_workers or os.cpu_count() or 1
    if direct.direct_running_mode != _PROCESSES or _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        del os.environ[_THREADS]
