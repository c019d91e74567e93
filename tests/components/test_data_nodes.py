"""The data nodes among stock ones: run locally, and compiled for Kubeflow."""

import pytest
import yaml
from PIL import Image
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.components import SchemaGen, StatisticsGen
from tfx.orchestration import metadata
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.pipeline import Pipeline

from anchorage.data.store import RecordStore
from anchorage_components.audit_examples import AuditExamples
from anchorage_components.image_example_gen import ImageExampleGen
from anchorage_components.pack_examples import PackExamples


def pipeline(root, work):
    import tensorflow_data_validation as tfdv  # can only be imported after TFX

    ingest = ImageExampleGen(root=str(root), val_share=0.3, seed=1, data_version="d", code_version="c")
    examples = ingest.outputs["examples"]
    options = tfdv.StatsOptions(feature_allowlist=["image/id", "label", "role"])
    statistics = StatisticsGen(examples=examples, stats_options=options)
    schema = SchemaGen(statistics=statistics.outputs["statistics"])
    audit = AuditExamples(examples=examples, code_version="c")
    pack = PackExamples(examples=examples, image_size=8, fit="pad", code_version="c")
    pack.add_upstream_node(audit)
    return Pipeline(
        pipeline_name="data",
        pipeline_root=str(work / "root"),
        components=[ingest, statistics, schema, audit, pack],
        enable_cache=True,
        metadata_connection_config=metadata.sqlite_metadata_connection_config(str(work / "metadata.sqlite")),
        beam_pipeline_args=["--direct_running_mode=in_memory", "--direct_num_workers=1"],
    )


@pytest.fixture
def root(tmp_path):
    for label in range(6):
        (tmp_path / f"images/class {label}").mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (label, number, 0)).save(tmp_path / f"images/class {label}/{number}.png")
    return tmp_path / "images"


@pytest.mark.thorough
def test_stock_nodes_take_the_examples_and_a_second_run_is_cached(root, tmp_path):
    for _ in range(2):
        LocalDagRunner().run(pipeline(root, tmp_path))
    (statistics,) = (tmp_path / "root/StatisticsGen/statistics").glob("*/Split-train/FeatureStats.pb")
    features = statistics_pb2.DatasetFeatureStatisticsList.FromString(statistics.read_bytes()).datasets[0]
    assert features.num_examples == 4
    assert {feature.path.step[0] for feature in features.features} == {"image/id", "label", "role"}
    (store,) = (tmp_path / "root/PackExamples/store").iterdir()
    assert [len(RecordStore(store / f"Split-{split}")) for split in ("train", "val", "test")] == [4, 2, 6]


def test_data_nodes_compile_for_kubeflow(root, tmp_path):
    config = KubeflowV2DagRunnerConfig(default_image="registry/anchorage:1", use_pipeline_spec_2_1=True)
    runner = KubeflowV2DagRunner(config=config, output_filename=str(tmp_path / "pipeline.yaml"))
    runner.run(pipeline(root, tmp_path))
    spec = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"ImageExampleGen", "StatisticsGen", "SchemaGen", "AuditExamples", "PackExamples"}
    executors = spec["deploymentSpec"]["executors"]
    for name in ("ImageExampleGen", "AuditExamples", "PackExamples"):
        arguments = executors[f"{name}_executor"]["container"]["args"]
        assert any(f".{name}_Executor" in argument for argument in arguments)
