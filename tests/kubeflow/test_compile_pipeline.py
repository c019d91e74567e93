"""The compiled pipeline is what Kubeflow accepts; kfp's own loader is the judge."""

import importlib.util
from pathlib import Path

import pytest
import yaml

_SCRIPT = Path(__file__).parents[2] / "kubeflow/compile_pipeline.py"
_EXPERIMENT = """
name = "toy"
[data]
path = "/mnt/anchorage/data/photos.csv"
[loss]
name = "multi_proxy_anchor"
params = { %s }
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compile_pipeline", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compiled(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    documents = {}
    for name, params in (("plain", "alpha = 16"), ("search", "alpha = { low = 8, high = 64 }")):
        (folder / f"{name}.toml").write_text(_EXPERIMENT % params)
        output = folder / f"{name}.yaml"
        assert script.main([str(folder / f"{name}.toml"), "--output", str(output), "--image", "here/anchorage:7"]) == 0
        documents[name] = output
    return documents


def test_kfp_loads_it_and_finds_every_node(compiled):
    from kfp.components import load_component_from_file

    component = load_component_from_file(str(compiled["plain"]))
    tasks = set(component.pipeline_spec.root.dag.tasks)
    assert {"ImageExampleGen", "PackExamples", "Trainer", "EmbedUntrained", "EvaluateRetrieval"} <= tasks
    assert "PublishRelease" in tasks
    assert "Tuner" not in tasks


def test_the_tuner_joins_when_the_experiment_has_ranges(compiled):
    document = yaml.safe_load(compiled["search"].read_text())
    tasks = document["root"]["dag"]["tasks"]
    assert "Tuner" in tasks
    assert "Tuner" in tasks["Trainer"]["dependentTasks"]


def test_no_executor_is_a_resolver_and_all_run_our_image(compiled):
    executors = yaml.safe_load(compiled["plain"].read_text())["deploymentSpec"]["executors"]
    assert executors
    for executor in executors.values():
        assert set(executor) == {"container"}
        assert executor["container"]["image"] == "here/anchorage:7"


def test_the_json_form_is_refused(script, compiled, capsys):
    source = compiled["plain"].with_suffix(".toml")
    assert script.main([str(source), "--output", "pipeline.json"]) == 2
    assert "E_OUTPUT_SUFFIX" in capsys.readouterr().err
