"""Which nodes a change of the experiment file renews: TFX's cache compares the parameters of each node."""

import tomllib

import pytest

from anchorage_pipeline.config import Experiment
from anchorage_pipeline.graph import create_pipeline
from anchorage_pipeline.places import Fingerprints, local_places

_PLAIN = """
name = "toy"
[data]
path = "images"
[loss]
name = "contrastive"
"""
_RELEASED = {"EvaluateRetrieval", "PublishRelease"}  # they record the whole file


def parameters(text):
    """The parameters of each node by its id, as TFX compares them."""
    experiment = Experiment.model_validate(tomllib.loads(text))
    pipeline = create_pipeline(experiment, local_places(experiment), Fingerprints(data="data", run="run"))
    return {component.id: dict(component.exec_properties) for component in pipeline.components}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()


@pytest.mark.parametrize(
    ("change", "renewed"),
    [
        ("", set()),
        ("[index]\nneighbors = 5", {"BuildIndex", *_RELEASED}),
        ("[evaluation]\nmax_drop = 0.1", _RELEASED),
        ("[training]\nepochs = 3", {"Trainer", *_RELEASED}),
    ],
)
def test_a_change_renews_only_the_nodes_that_use_the_section(change, renewed):
    before, after = parameters(_PLAIN), parameters(_PLAIN + change)
    assert before.keys() == after.keys()
    assert {"ImageExampleGen", "PackExamples", "Trainer", "EmbedExamples", "BuildIndex"} <= before.keys()
    assert {node for node in before if before[node] != after[node]} == renewed


def test_flags_of_beam_reach_the_nodes_that_use_it():
    text = f'{_PLAIN}[beam]\nflags = ["--runner=FlinkRunner", "--flink_master=flink:8081"]'
    experiment = Experiment.model_validate(tomllib.loads(text))
    pipeline = create_pipeline(experiment, local_places(experiment), Fingerprints(data="data", run="run"))
    flags = {c.id: getattr(c.executor_spec, "beam_pipeline_args", None) for c in pipeline.components}
    given = ["--runner=FlinkRunner", "--flink_master=flink:8081", "--sdk_container_image=unused"]
    with_beam = {"ImageExampleGen", "StatisticsGen", "AuditExamples", "PackExamples", "EmbedExamples"}
    assert {id_.partition(".")[0] for id_, args in flags.items() if args == given} >= with_beam
