"""The manifests of the serving, built by kustomize and checked against the schemas of two versions of Kubernetes."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from anchorage.storage import is_remote
from anchorage.storage.cache import CACHE
from anchorage_pipeline.cli import create_parser
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.serving.settings import Limits, ServeSettings
from anchorage_pipeline.serving.signatures import MODEL
from anchorage_pipeline.trigger import find_limits

_FOLDER = Path(__file__).parents[2] / "kubeflow"
_KUBECTL = Path(sys.executable).parent / "kubectl"
OVERLAYS = ("base", "overlays/trial", "overlays/canary", "overlays/cronjob", "overlays/object-store")
VERSIONS = ("1.30", "1.37")


@pytest.fixture(scope="module")
def built():
    documents = {}
    for overlay in OVERLAYS:
        command = [str(_KUBECTL), "kustomize", str(_FOLDER / "serving" / overlay)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        documents[overlay] = list(yaml.safe_load_all(done.stdout))
    return documents


def pods(documents):
    """Pod templates by the name of what makes them."""
    for each in documents:
        spec = each.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield each["metadata"]["name"], spec["template"]


def find(documents, kind, name):
    [found] = [each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_document_keeps_to_the_schema(built, overlay, version):
    for document in built[overlay]:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_find_a_wrong_key(built):
    document = find(built["base"], "Deployment", "gateway")
    spec = {**document["spec"], "replica": 2}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**document, "spec": spec}, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_confined(built, overlay):
    names = []
    for name, template in pods(built[overlay]):
        names.append(name)
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            context = container["securityContext"]
            assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]) & set(container["resources"]["requests"])
            assert ":" in container["image"]
            if name != "retraining":
                assert {"readinessProbe", "livenessProbe"} <= set(container)
    assert ({"gateway"} if overlay == "overlays/object-store" else {"gateway", "models"}) <= set(names)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_their_pods_and_ports(built, overlay):
    templates = dict(pods(built[overlay]))
    for document in built[overlay]:
        spec = document.get("spec", {})
        if document["kind"] in {"Deployment", "StatefulSet"}:
            labels = spec["template"]["metadata"]["labels"]
            assert spec["selector"]["matchLabels"].items() <= labels.items()
        if document["kind"] == "Service":
            chosen = [each for each in templates.values() if _matches(spec["selector"], each)]
            assert chosen
            for template in chosen:
                ports = {port["name"] for each in template["spec"]["containers"] for port in each["ports"]}
                assert {port["targetPort"] for port in spec["ports"]} <= ports
        if document["kind"] == "PodDisruptionBudget":
            assert any(_matches(spec["selector"]["matchLabels"], each) for each in templates.values())


def _matches(labels, template):
    return labels.items() <= template["metadata"]["labels"].items()


def test_the_gateway_is_the_command_that_there_is(built):
    [container] = find(built["base"], "Deployment", "gateway")["spec"]["template"]["spec"]["containers"]
    arguments = [each.replace("$(ANCHORAGE_STORE)", "postgresql://u@h/d") for each in container["args"]]
    options = create_parser("serve").parse_args(arguments)
    assert options.model_server == "tensorflow:models:8500"
    assert options.http == container["ports"][0]["containerPort"] == ServeSettings.http_port
    probes = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
    assert probes == ["/readyz", "/readyz", "/healthz"]


def test_it_scales_with_the_queue_that_the_gateway_reports(built):
    scaler = find(built["base"], "HorizontalPodAutoscaler", "gateway")["spec"]
    [metric] = scaler["metrics"]
    name = metric["pods"]["metric"]["name"]
    source = Path(sys.modules[ServeSettings.__module__].__file__).with_name("metrics.py").read_text(encoding="utf-8")
    assert f'"{name.removeprefix("anchorage_")}"' in source
    assert int(metric["pods"]["target"]["averageValue"]) < Limits.batch
    assert scaler["scaleTargetRef"]["name"] == "gateway"


def test_the_model_server_keeps_the_releases_that_gateways_ask_for(built):
    config = find(built["base"], "ConfigMap", _config(built["base"]))["data"]["models.config"]
    assert f'name: "{MODEL}"' in config
    assert re.search(r"latest \{ num_versions: 2 \}", config)
    canary = find(built["overlays/canary"], "ConfigMap", _config(built["overlays/canary"]))["data"]["models.config"]
    assert re.search(r"specific \{ versions: 1 versions: 2 \}", canary)


def _config(documents):
    spec = find(documents, "Deployment", "models")["spec"]["template"]["spec"]
    return next(each["configMap"]["name"] for each in spec["volumes"] if "configMap" in each)


def test_releases_in_an_object_store_need_neither_volume_nor_model_server(built):
    documents = built["overlays/object-store"]
    assert "PersistentVolumeClaim" not in {each["kind"] for each in documents}
    assert not [each for each in documents if each["metadata"]["name"] == "models"]
    spec = find(documents, "Deployment", "gateway")["spec"]["template"]["spec"]
    [container] = spec["containers"]
    arguments = [each.replace("$(ANCHORAGE_STORE)", "postgresql://u@h/d") for each in container["args"]]
    options = create_parser("serve").parse_args(arguments)
    assert is_remote(options.release)
    assert options.model_server == ""
    [cache] = [each["value"] for each in container["env"] if each["name"] == CACHE]
    [volume] = [each["name"] for each in container["volumeMounts"] if each["mountPath"] == cache]
    assert next(each for each in spec["volumes"] if each["name"] == volume)["emptyDir"]
    ports = [rule["ports"][0]["port"] for rule in find(documents, "NetworkPolicy", "gateway")["spec"]["egress"]]
    assert ports == [443, 5432, 53]


def test_a_canary_gets_a_tenth_of_one_service(built):
    documents = built["overlays/canary"]
    selector = find(documents, "Service", "gateway")["spec"]["selector"]
    shares = {}
    for name in ("gateway", "gateway-canary"):
        spec = find(documents, "Deployment", name)["spec"]
        assert _matches(selector, spec["template"])
        [container] = spec["template"]["spec"]["containers"]
        shares[container["args"][1]] = spec["replicas"]
    assert shares == {"--release=/releases/1": 9, "--release=/releases/2": 1}
    assert not any(each["kind"] == "HorizontalPodAutoscaler" for each in documents)


def test_the_scheduled_run_never_overlaps_and_does_not_repeat_a_verdict(built):
    spec = find(built["overlays/cronjob"], "CronJob", "retraining")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    job = spec["jobTemplate"]["spec"]
    fails = job["podFailurePolicy"]["rules"][0]
    assert (fails["action"], fails["onExitCodes"]["values"]) == ("FailJob", [2, 3, 5])
    [container] = job["template"]["spec"]["containers"]
    assert container["command"] == ["anchorage", "run", "/experiment/experiment.toml", "--if-needed"]
    config = next(each for each in built["overlays/cronjob"] if each.get("data", {}).get("experiment.toml"))
    experiment = Experiment.model_validate(tomllib.loads(config["data"]["experiment.toml"]))
    assert experiment.name == "icons"
    assert find_limits(experiment)
    assert [variable["name"] for variable in container["env"]] == ["PGPASSWORD"]  # the password of trigger.store


@pytest.mark.parametrize("file", ["Dockerfile", "serving/Dockerfile"])
def test_images_are_slim_and_not_root(file):
    text = (_FOLDER / file).read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
    assert re.search(r"^USER 1000:1000$", stages[-1], re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", stages[-1], re.MULTILINE)
    assert "uv" not in stages[-1]
    syncs = re.findall(r"uv sync .*", text)
    assert syncs
    assert all("--frozen --no-dev" in each and "icons" not in each for each in syncs)
