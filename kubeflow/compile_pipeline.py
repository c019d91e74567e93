"""Compiles an experiment for Kubeflow Pipelines v2: the same graph that runs on a laptop.

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
        experiment: what to run; its data path is read as the containers see it.
        output: the `.yaml` file to write.
        image: container image of every node, such as `"registry/anchorage:1"`.
        volume: folder that all containers share: releases and checkpoints live there.
        pipeline_root: where artifacts go; a path on the volume, or a store TensorFlow can open (`gs://`).

    Raises:
        UsageError: E_OUTPUT_SUFFIX, if `output` is not a `.yaml` file; the JSON form is a job, not a pipeline.
    """
    if output.suffix != ".yaml":
        raise UsageError("E_OUTPUT_SUFFIX", f"`--output` must end in .yaml. Received: {output}")
    from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

    places = Places(
        pipeline_root=pipeline_root,
        releases=f"{volume}/releases/{experiment.name}",
        checkpoints=f"{volume}/checkpoints/{experiment.name}",
    )
    # Scheduled runs read what the data and the release folder hold at that time: nothing is frozen at compile time.
    pipeline = create_pipeline(experiment, places, Fingerprints(data="", run=""))
    config = KubeflowV2DagRunnerConfig(default_image=image, use_pipeline_spec_2_1=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    runner = KubeflowV2DagRunner(config, output_dir=str(output.parent), output_filename=output.name)
    runner.run(pipeline)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile from the command line; exit status 2 on wrong use."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.yaml")
    parser.add_argument("--image", default="anchorage:latest", help="container image (default: %(default)s)")
    parser.add_argument("--volume", default="/mnt/anchorage", help="shared folder in every container (%(default)s)")
    parser.add_argument("--pipeline-root", help="where artifacts go (default: <volume>/artifacts/<name>)")
    options = parser.parse_args(arguments)
    silence_tensorflow()
    try:
        experiment = load_experiment(options.experiment)
        root = options.pipeline_root or f"{options.volume}/artifacts/{experiment.name}"
        compile_experiment(experiment, options.output, image=options.image, volume=options.volume, pipeline_root=root)
    except AnchorageError as error:
        print(f"compile_pipeline: {error}", file=sys.stderr)
        return error.exit_status
    print(f"{options.output}: upload it to Kubeflow Pipelines, or give it to kfp's own loader")
    return 0


if __name__ == "__main__":
    sys.exit(main())
