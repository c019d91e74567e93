"""The nodes around the gate compile for Kubeflow Pipelines, spec 2.1."""

import yaml
from kfp import components as kfp_components
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig
from tfx.orchestration.pipeline import Pipeline
from tfx.types.standard_artifacts import Examples, Model, ModelRun

from anchorage_components.artifacts import DataAudit, EmbeddingTable, RetrievalIndex
from anchorage_components.embed_untrained import EmbedUntrained
from anchorage_components.evaluate_retrieval import EvaluateRetrieval
from anchorage_components.find_release import FindRelease
from anchorage_components.publish_release import PublishRelease


def test_compiles(tmp_path):
    sources = {
        kind.__name__: Importer(source_uri=f"/data/{kind.__name__}", artifact_type=kind).with_id(kind.__name__)
        for kind in (EmbeddingTable, Model, ModelRun, RetrievalIndex, Examples, DataAudit)
    }
    made = {name: importer.outputs["result"] for name, importer in sources.items()}
    find = FindRelease(releases="/releases", run_key="a")
    untrained = EmbedUntrained(store=made["Examples"], model_run=made["ModelRun"], code_version="1")
    evaluate = EvaluateRetrieval(
        embeddings=made["EmbeddingTable"],
        baseline_embeddings=made["EmbeddingTable"],
        baseline=find.outputs["baseline"],
        untrained=untrained.outputs["embeddings"],
        model=made["Model"],
        index=made["RetrievalIndex"],
        store=made["Examples"],
        audit=made["DataAudit"],
        settings_json='{"max_drop": 0.01}',
    )
    publish = PublishRelease(
        model=made["Model"],
        index=made["RetrievalIndex"],
        report=evaluate.outputs["report"],
        blessing=evaluate.outputs["blessing"],
        releases="/releases",
    )
    path = tmp_path / "p.yaml"
    config = KubeflowV2DagRunnerConfig(default_image="x:1", use_pipeline_spec_2_1=True)
    runner = KubeflowV2DagRunner(config=config, output_filename=str(path))
    pipeline = Pipeline("judging", "/root", components=[*sources.values(), find, untrained, evaluate, publish])
    runner.run(pipeline, write_out=True)
    [spec, *_] = [part for part in yaml.safe_load_all(path.read_text()) if part and "root" in part]
    tasks = spec["root"]["dag"]["tasks"]
    assert {"FindRelease", "EmbedUntrained", "EvaluateRetrieval", "PublishRelease"} <= set(tasks)
    assert "EmbedUntrained" in tasks["EvaluateRetrieval"]["dependentTasks"]
    assert set(spec["components"]["PublishRelease"]["inputDefinitions"]["artifacts"]) == {
        "model",
        "index",
        "report",
        "blessing",
    }
    kfp_components.load_component_from_file(str(path))


def test_publishing_without_a_blessing_cannot_even_be_written_down():
    assert not PublishRelease.SPEC_CLASS.INPUTS["blessing"].optional
