"""Flags of engines: read, refused, and used to build the pipeline that they would run."""

import pytest
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner

from anchorage.errors import UsageError
from anchorage_components.beam.bulk import embedding_pipeline
from anchorage_components.beam.options import beam_options, is_in_process, node_flags

IMAGE = "registry.example/anchorage:1"
_DOCKER = ["--environment_type=DOCKER", f"--environment_config={IMAGE}"]
_DATAFLOW = [
    "--project=project-1",
    "--region=europe-west1",
    "--temp_location=gs://bucket/tmp",
    "--staging_location=gs://bucket/s",
]
ENGINES = {  # as `pipeline/reference/engines.md` shows them
    "FlinkRunner": ["--flink_master=flink:8081", "--flink_version=1.19", "--parallelism=8", *_DOCKER],
    "SparkRunner": ["--spark_master_url=spark://spark:7077", "--spark_version=3", *_DOCKER],
    # Not on the page: `--dry_run`, without which Beam would look at the buckets.
    "DataflowRunner": [*_DATAFLOW, "--max_num_workers=20", f"--sdk_container_image={IMAGE}", "--dry_run=true"],
    "PortableRunner": ["--job_endpoint=jobs:8099", *_DOCKER],
}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_pipeline_is_built_for_the_engine(tmp_path, engine):
    flags = [f"--runner={engine}", *ENGINES[engine]]
    pipeline = embedding_pipeline(flags, "/releases/1", str(tmp_path), shards=3)
    assert type(pipeline.runner).__name__ == engine
    if isinstance(pipeline.runner, PortableRunner):
        proto = PortableRunner.get_proto_pipeline(pipeline, pipeline.options)
        (environment,) = proto.components.environments.values()
        assert beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image == IMAGE
    else:
        proto = pipeline.to_runner_api()
    names = [transform.unique_name for transform in proto.components.transforms.values()]
    assert {"Jobs", "Spread", "Work", "Gather", "Finish"} <= {name.partition("/")[0] for name in names}
    assert not is_in_process(pipeline.options)
    assert node_flags(flags)[0] == flags[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runer=DirectRunner"], "--runer"),
        (["--direct_num_workers=many"], "argument --direct_num_workers: invalid int value: 'many'"),
    ],
)
def test_a_wrong_option_is_named(flags, message):
    with pytest.raises(UsageError, match=f"E_BEAM_OPTION: .* Received: {message}"):
        beam_options(flags)


def test_dask_is_refused_with_its_reason():
    for name in ("DaskRunner", "apache_beam.runners.dask.dask_runner.DaskRunner"):
        with pytest.raises(UsageError, match=r"E_BEAM_RUNNER: .* keeps all data. Received: Dask's, which loses"):
            beam_options([f"--runner={name}"])


def test_the_local_runner_is_the_one_without_downloads():
    for flags in ([], ["--runner=DirectRunner"], ["--direct_running_mode=multi_threading"]):
        options = beam_options(flags)
        assert (options.view_as(StandardOptions).runner or StandardOptions.DEFAULT_RUNNER) == "FnApiRunner"
        assert is_in_process(options)
    assert not is_in_process(beam_options(["--direct_running_mode=multi_processing"]))


def test_nodes_get_an_image_so_that_tfx_builds_none():
    assert node_flags([]) == []
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    assert node_flags(flags) == ["--runner=FnApiRunner", *flags, "--sdk_container_image=unused"]
    with pytest.raises(UsageError, match=r"E_BEAM_OPTION: .*sdk_container_image"):
        node_flags(["--runner=DataflowRunner", *_DATAFLOW, "--dry_run=true"])
    with pytest.raises(UsageError, match=r"E_BEAM_OPTION: .*--flinkmaster"):
        node_flags(["--runner=FlinkRunner", "--flinkmaster=x"])
