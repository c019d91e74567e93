"""The embedding and index nodes compile for Kubeflow, with EmbedExamples in the graph twice."""

import yaml
from kfp import components as kfp_components
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig
from tfx.orchestration.pipeline import Pipeline
from tfx.types.standard_artifacts import Examples, Model

from anchorage_components.artifacts import BaselineRelease
from anchorage_components.build_index import BuildIndex
from anchorage_components.embed_examples import EmbedExamples


def test_compiles_for_kubeflow(tmp_path):
    examples = Importer(source_uri="/data/examples", artifact_type=Examples).with_id("Examples")
    model = Importer(source_uri="/data/model", artifact_type=Model).with_id("Model")
    baseline = Importer(source_uri="/data/baseline", artifact_type=BaselineRelease).with_id("Baseline")
    embed = EmbedExamples(examples=examples.outputs["result"], model=model.outputs["result"], code_version="1")
    again = EmbedExamples(examples=examples.outputs["result"], baseline=baseline.outputs["result"], code_version="1")
    again = again.with_id("EmbedExamples.baseline")
    index = BuildIndex(embeddings=embed.outputs["embeddings"], code_version="1")
    nodes = [examples, model, baseline, embed, again, index]
    path = tmp_path / "pipeline.yaml"
    config = KubeflowV2DagRunnerConfig(default_image="image:1", use_pipeline_spec_2_1=True)
    runner = KubeflowV2DagRunner(config, output_filename=str(path))
    runner.run(Pipeline("judging", pipeline_root="/root", components=nodes))

    spec = yaml.safe_load(path.read_text())
    tasks = spec["root"]["dag"]["tasks"]
    assert {"EmbedExamples", "EmbedExamples.baseline", "BuildIndex"} <= set(tasks)
    assert (
        tasks["BuildIndex"]["inputs"]["artifacts"]["embeddings"]["taskOutputArtifact"]["producerTask"]
        == "EmbedExamples"
    )
    assert set(tasks["EmbedExamples.baseline"]["inputs"]["artifacts"]) == {"examples", "baseline"}
    kfp_components.load_component_from_file(str(path))
