"""Runs a compiled pipeline spec as Kubeflow Pipelines does: driver, cache and launcher of its version 2 in small.

Each task is a process with the command line that the spec names and an executor input as the driver makes it:
parameters from constants, from the pipeline or from other tasks, artifacts by URIs in an object store that is absent.
Processes are forked from one that has imported TFX, which takes ten seconds, unless they are to start from nothing.
"""

import itertools
import json
import os
import re
import runpy
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import yaml

_CONDITION = re.compile(r"inputs\.parameter_values\['(\w+)'\] != '(\w*)'")  # the part of CEL that specs use
_HEAVY = ("tfx.components", "tensorflow_transform", "keras", "scann", "tfx.orchestration.portable.outputs_utils")


@dataclass
class Task:
    """What became of a task, with its log.

    Args:
        state: "SUCCEEDED", "CACHED" or "FAILED"; "NOT_TRIGGERED" if its condition does not hold, "SKIPPED" if a task
            that it depends on has no outputs.
        log: what its process wrote.
        exit_status: that of its process.
    """

    state: str
    log: str = ""
    exit_status: int = 0


@dataclass
class Backend:
    """A Kubeflow Pipelines server of one pipeline, with its cache and its metadata.

    Args:
        spec: file that `anchorage kubeflow compile` has written.
        folder: for executor outputs and logs.
    """

    spec: Path
    folder: Path
    cache: dict = field(default_factory=dict)

    def __post_init__(self):
        self.document = next(yaml.safe_load_all(self.spec.read_text(encoding="utf-8")))
        self._ids = itertools.count(1)
        self._runs = itertools.count(1)
        self._server: subprocess.Popen | None = None

    def close(self):
        """End the process that others are forked from."""
        if self._server:
            self._server.stdin.close()
            self._server.wait(timeout=60)

    def run(self, parameters=None, *, from_nothing=()) -> dict[str, Task]:
        """Run all tasks in order.

        Args:
            parameters: values of pipeline parameters; the others have their defaults.
            from_nothing: tasks whose process is started by their command line instead of forked.
        """
        declared = self.document["root"].get("inputDefinitions", {}).get("parameters", {})
        assert set(parameters or {}) <= set(declared)
        values = {name: each.get("defaultValue") for name, each in declared.items()} | (parameters or {})
        tasks = self.document["root"]["dag"]["tasks"]
        run, outputs, done = f"run-{next(self._runs)}", {}, {}
        while waiting := [name for name in tasks if name not in done]:
            name = next(each for each in waiting if set(tasks[each].get("dependentTasks", [])) <= set(done))
            before = {done[each].state for each in tasks[name].get("dependentTasks", [])}
            if before - {"SUCCEEDED", "CACHED"}:
                done[name] = Task("SKIPPED")
                continue
            done[name] = self._execute(run, name, values, outputs, name in from_nothing)
        return done

    def _execute(self, run, name, values, outputs, is_from_nothing) -> Task:
        task = self.document["root"]["dag"]["tasks"][name]
        component = self.document["components"][task["componentRef"]["name"]]
        executor = self.document["deploymentSpec"]["executors"][component["executorLabel"]]
        assert set(executor) == {"container"}, f"{name} is no container"
        container, folder = executor["container"], self.folder / run / name
        folder.mkdir(parents=True)
        declared = component.get("outputDefinitions", {})
        types = {key: each["artifactType"] for key, each in declared.get("artifacts", {}).items()}
        given = task.get("inputs", {})
        inputs = {
            "parameterValues": {
                key: self._value(each, values, outputs) for key, each in given.get("parameters", {}).items()
            },
            "artifacts": {
                key: {"artifacts": [_produced(each["taskOutputArtifact"], outputs)]}
                for key, each in given.get("artifacts", {}).items()
            },
        }
        self._check_types(inputs["parameterValues"], component)
        if condition := task.get("triggerPolicy", {}).get("condition"):
            key, other = _CONDITION.fullmatch(condition).groups()
            if inputs["parameterValues"][key] == other:
                return Task("NOT_TRIGGERED")
        identity = json.dumps(
            [
                {name: each["artifacts"][0]["name"] for name, each in inputs["artifacts"].items()},
                inputs["parameterValues"],
                types,
                sorted(declared.get("parameters", {})),
                container["image"],
                container["command"],
                container["args"],
            ],
            sort_keys=True,
        )
        is_cached = task.get("cachingOptions", {}).get("enableCache", False)
        if is_cached and identity in self.cache:
            outputs[name] = self.cache[identity]
            return Task("CACHED")
        place = (
            f"minio://mlpipeline/v2/artifacts/{self.document['pipelineInfo']['name']}/{run}/{name}/{next(self._ids)}"
        )
        invocation = {
            "inputs": inputs,
            "outputs": {
                "artifacts": {
                    key: {"artifacts": [{"uri": f"{place}/{key}", "type": kind}]} for key, kind in types.items()
                },
                "parameters": {key: {"outputFile": str(folder / key)} for key in declared.get("parameters", {})},
                "outputFile": str(folder / "output_metadata.json"),
            },
        }
        arguments = [each.replace("{{$}}", json.dumps(invocation)) for each in container["args"]]
        command = [*container["command"], *arguments]
        start = _start if is_from_nothing else self._fork
        status, log = start(command, folder / "log"), (folder / "log").read_text(encoding="utf-8", errors="replace")
        if status:
            return Task("FAILED", log, status)
        reported = json.loads((folder / "output_metadata.json").read_text(encoding="utf-8"))
        outputs[name] = {"parameters": reported.get("parameterValues", {}), "artifacts": {}}
        for key, kind in types.items():
            [artifact] = reported.get("artifacts", {}).get(key, {}).get("artifacts") or [{}]
            made = {"uri": f"{place}/{key}", "metadata": {}, **artifact}
            outputs[name]["artifacts"][key] = {**made, "name": str(next(self._ids)), "type": kind}
        if is_cached:
            self.cache[identity] = outputs[name]
        return Task("SUCCEEDED", log)

    def _value(self, given, values, outputs):
        if "componentInputParameter" in given:
            return values[given["componentInputParameter"]]
        if "taskOutputParameter" in given:
            produced = given["taskOutputParameter"]
            return outputs[produced["producerTask"]]["parameters"][produced["outputParameterKey"]]
        return given["runtimeValue"]["constant"]

    def _check_types(self, parameters, component):
        """The driver refuses other inputs than those that the component declares, or of another type."""
        declared = component.get("inputDefinitions", {}).get("parameters", {})
        assert set(parameters) == set(declared)
        for key, value in parameters.items():
            kind = declared[key]["parameterType"]
            expected = str if kind == "STRING" else (int, float)
            assert isinstance(value, expected), f"{key} is {value!r}, no {kind}"

    def _fork(self, command, log) -> int:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        self._server.stdin.write(json.dumps([command, str(log)]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def _produced(source, outputs):
    return outputs[source["producerTask"]]["artifacts"][source["outputArtifactKey"]]


def _start(command, log) -> int:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with log.open("w") as file:
        done = subprocess.run(
            command, stdout=file, stderr=file, env={**os.environ, "PATH": path}, timeout=1200, check=False
        )
    return done.returncode


def _serve() -> None:
    """Fork a process for each line of the input, and answer with its exit status."""
    for module in _HEAVY:
        __import__(module)
    for line in sys.stdin:
        command, log = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_become(command, log))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(command, log) -> int:
    """Run `python -m MODULE ...` in this process."""
    assert command[:2] == ["python", "-m"]
    with open(log, "w") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [command[2], *command[3:]]
    try:
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    else:
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else int(status is not None)


if __name__ == "__main__":
    _serve()
