"""Compile an experiment to a pipeline spec of Kubeflow Pipelines (version 2.1), with the same graph as `anchorage run`.

TFX compiles the graph. What it has no words for is added to the document afterwards: pipeline parameters (a
`RuntimeParameter` is no value for the Trainer's settings), conditions, resources, retries, the shared volume, secrets,
time limits and node selectors. The last four are the "platform spec", a second YAML document that kfp-kubernetes
defines.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from anchorage.errors import UsageError
from anchorage.extras import needs_extra
from anchorage.registry import nearest
from anchorage.storage import is_remote, join
from anchorage_pipeline.cluster.parameters import open_parameters
from anchorage_pipeline.cluster.settings import Cluster
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.graph import create_pipeline
from anchorage_pipeline.places import Places

_UNCACHED = "IdentifyRun"  # looks at data and releases, which are no parameters
_NEVER_EMPTY = ("data_version", "run_key")  # its outputs that a needed run has in any case
_FINAL = "PublishRelease"  # fails if the candidate is rejected, which no retry changes
_BACKOFF = {"backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "3600s"}


def compile_experiment(experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compile an experiment; its data path is a path inside the containers.

    Returns:
        The pipeline spec and the platform spec as dictionaries; the latter is empty if it is not needed.

    Raises:
        UsageError: E_EXTRA_MISSING without kfp's compiler; E_CLUSTER_NODE if `cluster.nodes` names an unknown node.
    """
    cluster = experiment.cluster
    document = _compile_graph(experiment)
    tasks = document["root"]["dag"]["tasks"]
    _fix_producers(tasks)
    _skip_unless_needed(tasks)
    if unknown := sorted(set(cluster.nodes) - set(tasks)):
        raise UsageError(
            "E_CLUSTER_NODE",
            f"Expected nodes of this pipeline in `cluster.nodes`: {', '.join(tasks)}. Received: {unknown[0]!r}."
            + nearest(unknown[0], tasks),
        )
    configs = {}
    for name, task in tasks.items():
        node = cluster.for_node(name)
        if name == _UNCACHED:
            task["cachingOptions"] = {}
        if node.retries and name != _FINAL:
            task["retryPolicy"] = {"maxRetryCount": node.retries, **_BACKOFF}
        container = document["deploymentSpec"]["executors"][f"{name}_executor"]["container"]
        if resources := _resources(node, cluster):
            container["resources"] = resources
        if config := _platform_config(node, cluster):
            configs[f"{name}_executor"] = config
    open_parameters(document)
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": configs}}}} if configs else {}
    return _without_dots(document, set(tasks)), _without_dots(platform, set(tasks))


def write_spec(experiment: Experiment, output: Path) -> None:
    """Write both documents of `compile_experiment` to a file.

    Raises:
        UsageError: E_OUTPUT_SUFFIX, if `output` is not a `.yaml` file; those of `compile_experiment`.
    """
    if output.suffix != ".yaml":
        raise UsageError("E_OUTPUT_SUFFIX", f"`--output` must end in .yaml. Received: {output}")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(format_spec(*compile_experiment(experiment)), encoding="utf-8")


def format_spec(document: dict[str, Any], platform: dict[str, Any]) -> str:
    """Both documents as YAML."""
    return yaml.safe_dump_all([document, platform] if platform else [document], sort_keys=True)


def artifacts_folder(experiment: Experiment) -> str:
    """Folder for the artifacts, the same in all containers: in a bucket if `runs` is in one, else on the volume."""
    if is_remote(experiment.runs):
        return join(experiment.artifact_folder, "artifacts")
    return f"{experiment.cluster.volume}/artifacts/{experiment.name}"


def _compile_graph(experiment: Experiment) -> dict[str, Any]:
    with needs_extra("kubeflow", "Kubeflow"):
        from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

    volume = experiment.cluster.volume
    trained = f"{volume}/checkpoints/{experiment.name}"
    places = Places(
        pipeline_root=artifacts_folder(experiment),
        releases=folder if is_remote(folder := experiment.release.folder) else f"{volume}/releases/{experiment.name}",
        checkpoints=join(experiment.artifact_folder, "checkpoints") if is_remote(experiment.runs) else trained,
        searches=trained,
        features=f"{volume}/features/{experiment.name}",
        rejects=f"{volume}/artifacts/{experiment.name}/rejects.jsonl",
    )
    command = ["python", "-m", "anchorage_components.container", "--artifacts", places.pipeline_root]
    config = KubeflowV2DagRunnerConfig(
        default_image=experiment.cluster.image, default_commands=command, use_pipeline_spec_2_1=True
    )
    with TemporaryDirectory() as folder:
        runner = KubeflowV2DagRunner(config, output_dir=folder, output_filename="spec.yaml")
        runner.run(create_pipeline(experiment, places, None))
        return yaml.safe_load((Path(folder) / "spec.yaml").read_text(encoding="utf-8"))


def _fix_producers(tasks: dict[str, Any]) -> None:
    """TFX 1.21 names the producer of a parameter "<node>_task", while the task is named "<node>"."""
    for task in tasks.values():
        for parameter in task.get("inputs", {}).get("parameters", {}).values():
            if produced := parameter.get("taskOutputParameter"):
                producer = produced["producerTask"].removesuffix("_task")
                produced["producerTask"] = producer
                task["dependentTasks"] = sorted({*task.get("dependentTasks", []), producer})


def _skip_unless_needed(tasks: dict[str, Any]) -> None:
    """Let the nodes that depend on IdentifyRun alone run only if it says so; without their outputs, no other one runs.

    Its outputs are empty if the run is not needed. The expression is CEL, as kfp compiles conditions to.
    """
    for task in tasks.values():
        if task.get("dependentTasks") != [_UNCACHED]:
            continue
        key = next(
            key
            for key, value in task["inputs"]["parameters"].items()
            if value.get("taskOutputParameter", {}).get("outputParameterKey") in _NEVER_EMPTY
        )
        task["triggerPolicy"] = {"condition": f"inputs.parameter_values['{key}'] != ''"}


def _resources(node: Any, cluster: Cluster) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for kind, amount in (("Cpu", node.cpu), ("Memory", node.memory)):
        if amount:
            resources |= {f"resource{kind}Limit": amount, f"resource{kind}Request": amount}
    if node.gpu:
        resources["accelerator"] = {"resourceType": cluster.gpu_resource, "resourceCount": str(node.gpu)}
    return resources


def _platform_config(node: Any, cluster: Cluster) -> dict[str, Any]:
    """The node's `KubernetesExecutorConfig` of kfp-kubernetes."""
    config: dict[str, Any] = {}
    if cluster.volume_claim:
        config["pvcMount"] = [{"constant": cluster.volume_claim, "mountPath": cluster.volume}]
    for variable, place in cluster.secrets.items():
        name, _, key = place.partition("/")
        config.setdefault("secretAsEnv", []).append(
            {"secretName": name, "keyToEnv": [{"secretKey": key, "envVar": variable}]}
        )
    if node.timeout_minutes:
        config["activeDeadlineSeconds"] = str(round(60 * node.timeout_minutes))
    if node.node_selector:
        config["nodeSelector"] = {"labels": dict(node.node_selector)}
    return config


def _without_dots(value: Any, names: set[str]) -> Any:
    """Rename nodes such as "EmbedExamples.baseline": Argo, which runs them, allows no dots in names of tasks."""
    dotted = {name for name in names if "." in name}
    renamed = {name + end: name.replace(".", "-") + end for name in dotted for end in ("", "_executor")}

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed.get(key, key): rename(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rename(item) for item in value]
        return renamed.get(value, value) if isinstance(value, str) else value

    return rename(value)
