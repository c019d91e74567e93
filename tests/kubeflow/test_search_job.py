"""The Job of the documentation that shares a search: which replica is the chief, and where the others find it."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

PAGE = Path(__file__).parents[2] / "pipeline" / "reference" / "tuning.md"


@pytest.fixture
def manifests():
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


@pytest.mark.parametrize(
    ("index", "name", "address"),
    [("0", "chief", "0.0.0.0"), ("1", "worker-1", "search-0.search"), ("4", "worker-4", "search-0.search")],
)
def test_each_replica_knows_its_part(manifests, tmp_path, index, name, address):
    [container] = manifests["Job"]["spec"]["template"]["spec"]["containers"]
    (tmp_path / "anchorage").write_text('#!/bin/sh\nenv\necho "ARGUMENTS=$*"\n')
    (tmp_path / "anchorage").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": index}
    command = [*container["command"], *container["args"]]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    found = dict(line.split("=", 1) for line in process.stdout.splitlines())
    assert (found["KERASTUNER_TUNER_ID"], found["KERASTUNER_ORACLE_IP"]) == (name, address)
    assert found["KERASTUNER_ORACLE_PORT"] == "8000"
    assert found["ARGUMENTS"].startswith("tune /mnt/anchorage/")
    [mount] = container["volumeMounts"]
    assert all(part.startswith(mount["mountPath"]) for part in found["ARGUMENTS"].split() if part.startswith("/"))


def test_the_address_of_the_chief_is_that_of_the_first_replica(manifests):
    job, service = manifests["Job"], manifests["Service"]
    # The host name of a replica of an indexed Job is NAME-INDEX, below the headless service of its subdomain.
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] > 1
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    host = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert f"KERASTUNER_ORACLE_IP={host}\n" in job["spec"]["template"]["spec"]["containers"][0]["args"][0]
