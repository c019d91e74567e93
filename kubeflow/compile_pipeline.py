"""Compile an experiment for Kubeflow Pipelines v2, with the same graph as `anchorage run`.

python kubeflow/compile_pipeline.py pipeline/experiments/icons.toml --output icons.yaml --image registry/anchorage:1
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anchorage.errors import AnchorageError, UsageError
from anchorage_pipeline.config import Experiment, load_experiment
from anchorage_pipeline.graph import Fingerprints, Places, create_pipeline
from anchorage_pipeline.progress import silence_tensorflow


def compile_experiment(experiment: Experiment, output: Path, *, image: str, volume: str, pipeline_root: str) -> None:
    """Write the pipeline spec (version 2.1, YAML).

    Args:
        experiment: the experiment to run; its data path is a path inside the containers.
        output: the `.yaml` file to write.
        image: container image of every node, such as `"registry/anchorage:1"`.
        volume: folder shared by all containers, for releases, checkpoints and cached features.
        pipeline_root: folder for artifacts: a path on the volume, or in a store that TensorFlow can open (`gs://`).

    Raises:
        UsageError: E_OUTPUT_SUFFIX, if `output` is not a `.yaml` file; JSON would be a job, not a pipeline.
    """
    if output.suffix != ".yaml":
        raise UsageError("E_OUTPUT_SUFFIX", f"`--output` must end in .yaml. Received: {output}")
    from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

    places = Places(
        pipeline_root=pipeline_root,
        releases=f"{volume}/releases/{experiment.name}",
        checkpoints=f"{volume}/checkpoints/{experiment.name}",
        features=f"{volume}/features/{experiment.name}",
    )
    # Empty fingerprints: each scheduled run uses the data and the releases at its start, not at compile time.
    pipeline = create_pipeline(experiment, places, Fingerprints(data="", run=""))
    config = KubeflowV2DagRunnerConfig(default_image=image, use_pipeline_spec_2_1=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    runner = KubeflowV2DagRunner(config, output_dir=str(output.parent), output_filename=output.name)
    runner.run(pipeline)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile from the command line; returns the exit status, 2 for invalid arguments or experiments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("experiment", metavar="FILE", help="experiment file (TOML)")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.yaml", help="pipeline spec to write (required)"
    )
    parser.add_argument(
        "--image", default="anchorage:latest", help="container image of all nodes (default: %(default)s)"
    )
    parser.add_argument(
        "--volume",
        default="/mnt/anchorage",
        metavar="FOLDER",
        help="shared folder in all containers (default: %(default)s)",
    )
    parser.add_argument(
        "--pipeline-root", metavar="FOLDER", help="folder for artifacts (default: <volume>/artifacts/<name>)"
    )
    options = parser.parse_args(arguments)
    silence_tensorflow()
    try:
        experiment = load_experiment(options.experiment)
        root = options.pipeline_root or f"{options.volume}/artifacts/{experiment.name}"
        compile_experiment(experiment, options.output, image=options.image, volume=options.volume, pipeline_root=root)
    except AnchorageError as error:
        print(f"compile_pipeline: {error}", file=sys.stderr)
        return error.exit_status
    print(f"{options.output}: upload it to Kubeflow Pipelines, or submit it with the kfp client")
    return 0


if __name__ == "__main__":
    sys.exit(main())
