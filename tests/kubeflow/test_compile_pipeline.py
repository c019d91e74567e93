"""The compiled pipeline is what Kubeflow accepts (kfp's own loader is the judge), and the commands that use it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kubeflow_server import serve_kubeflow

from anchorage.tuning.ranges import read_space
from anchorage_components.container import place_outputs
from anchorage_pipeline.cli import main
from anchorage_pipeline.cluster.parameters import run_parameters
from anchorage_pipeline.cluster.spec import compile_experiment
from anchorage_pipeline.config import load_experiment

_SCRIPTS = Path(__file__).parents[2] / "kubeflow"
_EXPERIMENT = """
name = "toy"
[trigger]
max_age_days = 30
drift = "evaluation"
[data]
path = "/mnt/anchorage/data/{SPAN}/photos.csv"
[loss]
name = "multi_proxy_anchor"
params = { %s }
[cluster]
%s
"""
_BUCKET = "s3://shop/runs"
_CLUSTER = """
image = "here/anchorage:7"
volume_claim = "shared"
cron = "0 0 3 * * 1"
memory = "8Gi"
secrets = { PGPASSWORD = "anchorage/postgresql-password" }
[cluster.nodes.Trainer]
cpu = "4"
memory = "32Gi"
gpu = 1
retries = 0
timeout_minutes = 90.0
node_selector = { pool = "gpu" }
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    documents = {}
    stored = ["--set", f"runs={_BUCKET}", "--set", "release.folder=s3://shop/releases/toy"]
    for name, params, options in (
        ("plain", "alpha = 16", []),
        ("search", "alpha = { low = 8, high = 64 }", stored),
    ):
        (folder / f"{name}.toml").write_text(_EXPERIMENT % (params, _CLUSTER))
        output = folder / f"{name}.yaml"
        assert main(["kubeflow", "compile", str(folder / f"{name}.toml"), "--output", str(output), *options]) == 0
        documents[name] = output
    return documents


def parts(path):
    document, platform = yaml.safe_load_all(path.read_text())
    return document, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_kfp_loads_it_and_finds_every_node(compiled):
    from kfp.components import load_component_from_file

    component = load_component_from_file(str(compiled["plain"]))
    tasks = set(component.pipeline_spec.root.dag.tasks)
    assert {"IdentifyRun", "ImageExampleGen", "PackExamples", "Trainer", "EmbedUntrained", "PublishRelease"} <= tasks
    assert "Tuner" not in tasks
    assert not component.pipeline_spec.root.dag.tasks["IdentifyRun"].caching_options.enable_cache


def test_the_tuner_joins_when_the_experiment_has_ranges(compiled):
    tasks = parts(compiled["search"])[0]["root"]["dag"]["tasks"]
    assert "Tuner" in tasks
    assert "Tuner" in tasks["Trainer"]["dependentTasks"]


def test_names_are_those_that_argo_allows_and_producers_exist(compiled):
    tasks = parts(compiled["plain"])[0]["root"]["dag"]["tasks"]
    assert all(re.fullmatch(r"[a-zA-Z0-9][-a-zA-Z0-9]*", name) for name in tasks)
    for task in tasks.values():
        inputs = task.get("inputs", {})
        producers = {each["taskOutputArtifact"]["producerTask"] for each in inputs.get("artifacts", {}).values()}
        for each in inputs.get("parameters", {}).values():
            producers |= {each["taskOutputParameter"]["producerTask"]} if "taskOutputParameter" in each else set()
        assert producers <= set(tasks) & set(task.get("dependentTasks", []))


def test_the_first_nodes_after_the_look_run_only_if_it_finds_a_need(compiled):
    document = parts(compiled["plain"])[0]
    tasks = document["root"]["dag"]["tasks"]
    assert {name: task["triggerPolicy"] for name, task in tasks.items() if "triggerPolicy" in task} == {
        "ImageExampleGen": {"condition": "inputs.parameter_values['data_version'] != ''"},
        "FindRelease": {"condition": "inputs.parameter_values['run_key'] != ''"},
    }
    parameter = document["root"]["inputDefinitions"]["parameters"]["trigger"]
    assert json.loads(parameter["defaultValue"]) == {"max_age_days": 30, "drift": "evaluation"}  # a schedule takes it


def test_machines_are_those_of_the_section(compiled):
    document, platform = parts(compiled["plain"])
    executors = document["deploymentSpec"]["executors"]
    assert len(executors) == len(document["root"]["dag"]["tasks"])
    for name, executor in executors.items():
        assert set(executor) == {"container"}  # no resolver, which Kubeflow refuses
        assert executor["container"]["image"] == "here/anchorage:7"
        assert platform[name]["pvcMount"] == [{"constant": "shared", "mountPath": "/mnt/anchorage"}]
        [secret] = platform[name]["secretAsEnv"]
        assert secret["secretName"] == "anchorage"
        assert secret["keyToEnv"] == [{"secretKey": "postgresql-password", "envVar": "PGPASSWORD"}]
    assert executors["BuildIndex_executor"]["container"]["resources"] == {
        "resourceMemoryLimit": "8Gi",
        "resourceMemoryRequest": "8Gi",
    }
    trainer = executors["Trainer_executor"]["container"]["resources"]
    assert trainer["accelerator"] == {"resourceType": "nvidia.com/gpu", "resourceCount": "1"}
    assert (trainer["resourceCpuLimit"], trainer["resourceMemoryLimit"]) == ("4", "32Gi")
    assert platform["Trainer_executor"]["activeDeadlineSeconds"] == "5400"
    assert platform["Trainer_executor"]["nodeSelector"] == {"labels": {"pool": "gpu"}}
    tasks = document["root"]["dag"]["tasks"]
    assert tasks["BuildIndex"]["retryPolicy"]["maxRetryCount"] == 2
    assert "retryPolicy" not in tasks["Trainer"]
    assert "retryPolicy" not in tasks["PublishRelease"]


@pytest.mark.parametrize(
    ("name", "folder"), [("plain", "/mnt/anchorage/releases/toy"), ("search", "s3://shop/releases/toy")]
)
def test_releases_lie_on_the_volume_or_in_an_object_store(compiled, name, folder):
    tasks = parts(compiled[name])[0]["root"]["dag"]["tasks"]
    for node in ("IdentifyRun", "FindRelease", "PublishRelease"):
        assert tasks[node]["inputs"]["parameters"]["releases"] == {"runtimeValue": {"constant": folder}}


def test_outputs_lie_on_the_volume_wherever_kubeflow_stores_artifacts():
    artifact = {"artifacts": [{"uri": "minio://mlpipeline/v2/artifacts/toy/1/Trainer/model?region=x"}]}
    placed = place_outputs({"outputs": {"artifacts": {"model": artifact}}}, "/mnt/a")
    assert placed["outputs"]["artifacts"]["model"]["artifacts"] == [
        {"uri": "/mnt/a/minio/mlpipeline/v2/artifacts/toy/1/Trainer/model"}
    ]


@pytest.mark.parametrize(
    ("name", "artifacts", "checkpoints"),
    [
        ("plain", "/mnt/anchorage/artifacts/toy", "/mnt/anchorage/checkpoints/toy"),
        ("search", f"{_BUCKET}/toy/artifacts", f"{_BUCKET}/toy/checkpoints"),
    ],
)
def test_artifacts_and_checkpoints_lie_on_the_volume_or_in_the_bucket(compiled, name, artifacts, checkpoints):
    document, _ = parts(compiled[name])
    for executor in document["deploymentSpec"]["executors"].values():
        command = executor["container"]["command"]
        assert command[command.index("--artifacts") + 1] == artifacts
    given = document["root"]["dag"]["tasks"]["Trainer"]["inputs"]["parameters"]["custom_config"]
    declared = document["root"]["inputDefinitions"]["parameters"]
    config = json.loads(declared[given["componentInputParameter"]]["defaultValue"])
    assert config["checkpoints"] == checkpoints
    assert config["features"] == "/mnt/anchorage/features/toy"


def test_deploy_run_and_roll_back(compiled, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = str(compiled["plain"].with_suffix(".toml"))

    def anchorage(*arguments):
        capsys.readouterr()
        status = main(["kubeflow", *arguments])
        return status, capsys.readouterr()

    with serve_kubeflow() as (host, store):
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", host)
        assert anchorage("run", file)[0] == 2  # not deployed
        assert anchorage("deploy", file)[0] == 0
        status, output = anchorage("deploy", file)
        assert "as deployed before" in output.out
        assert "schedule cron 0 0 3 * * 1" in output.out
        [version] = store.versions.values()
        assert version["spec"] == compiled["plain"].read_text()
        changes = ("--set", "training.epochs=7", "--set", "evaluation.max_drop=0.5", "--set", "loss.params.alpha=8")
        assert anchorage("run", file, "--span", "2026-11-30", *changes)[0] == 0
        [run] = store.runs.values()
        parameters = run["runtime_config"]["parameters"]
        assert set(parameters) == {"span", "training", "trigger", "evaluation", "experiment", "settings_version"}
        assert parameters["trigger"] == "{}"  # a run that is asked for needs no reason
        assert parameters["span"] == "2026-11-30"
        settings = json.loads(json.loads(parameters["training"])["settings_json"])
        assert (settings["training"]["epochs"], settings["loss"]["params"]["alpha"]) == (7, 8)
        assert json.loads(parameters["evaluation"])["max_drop"] == 0.5
        status, output = anchorage("run", file, "--set", "index.neighbors=3")
        assert (status, "E_RUN_PARAMETER" in output.err, "BuildIndex" in output.err) == (2, True, True)
        assert anchorage("run", file, "--set", "training.epochs=-1")[0] == 2
        changes = ("--set", "trigger.max_age_days=7", "--set", 'trigger.drift=""')
        status, output = anchorage("run", file, "--if-needed", *changes, "--json")
        assert json.loads(json.loads(output.out)["parameters"]["trigger"]) == {"max_age_days": 7}
        status, output = anchorage("run", file, "--if-needed", *changes, "--set", "trigger.max_age_days=0")
        assert (status, "E_TRIGGER_MISSING" in output.err) == (2, True)
        assert anchorage("deploy", file, "--set", "training.epochs=9")[0] == 0
        status, output = anchorage("roll-back", file, "--json")
        assert json.loads(output.out)["version"] == version["display_name"]
        assert "paused" in anchorage("pause", file)[1].out
        assert "paused" not in anchorage("resume", file)[1].out


def test_the_tuner_searches_the_ranges_in_the_order_of_the_file(compiled):
    file = compiled["search"].with_suffix(".toml")
    params = "loss.params={ margin = { low = 0.1, high = 0.2 }, alpha = { low = 8, high = 64 } }"
    experiment = load_experiment(file, [params], is_local=False)
    task = compile_experiment(experiment)[0]["root"]["inputDefinitions"]["parameters"]["tuning"]
    settings = json.loads(json.loads(task["defaultValue"])["settings_json"])
    assert [item.path for item in read_space(settings)] == ["loss.params.margin", "loss.params.alpha"]


def test_a_budget_is_a_run_parameter_of_its_type(compiled, capsys):
    file = compiled["search"].with_suffix(".toml")

    def spec(*overrides):
        return compile_experiment(load_experiment(file, overrides, is_local=False))[0]

    deployed = spec()
    budget = ("tuning.trials=4", "tuning.minutes=30", "training.epochs=2")
    parameters = run_parameters(deployed, spec(*budget))
    tuning = json.loads(json.loads(parameters["tuning"])["tuning_json"])
    assert (tuning["trials"], tuning["minutes"]) == (4, 30.0)
    assert json.loads(json.loads(parameters["training"])["settings_json"])["training"]["epochs"] == 2
    for wrong, expected in (
        ("tuning.trials=2.5", "integer"),
        ("tuning.minutes=long", "number"),
        ("tuning.tries=2", ""),
    ):
        assert main(["kubeflow", "run", str(file), "--set", wrong]) == 2  # before it asks a server
        stderr = capsys.readouterr().err
        assert "E_EXPERIMENT" in stderr
        assert wrong.partition("=")[0] in stderr
        assert expected in stderr


def test_mistakes_are_reported(compiled, capsys):
    source = str(compiled["plain"].with_suffix(".toml"))
    for arguments, code in (
        (["--output", "pipeline.json"], "E_OUTPUT_SUFFIX"),
        (["--output", "p.yaml", "--set", "cluster.nodes.Traner.gpu=1"], "E_CLUSTER_NODE"),
        (["--output", "p.yaml", "--set", "cluster.cron=daily"], "E_EXPERIMENT"),
        (["--output", "p.yaml", "--set", "cluster.memory=lots"], "E_EXPERIMENT"),
    ):
        assert main(["kubeflow", "compile", source, *arguments]) == 2
        assert code in capsys.readouterr().err


@pytest.mark.parametrize("script", ["compile_pipeline", "deploy"])
def test_the_scripts_are_the_commands(script):
    command = [sys.executable, str(_SCRIPTS / f"{script}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"anchorage kubeflow {script.partition('_')[0]}" in done.stdout
