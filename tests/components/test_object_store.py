"""Nodes and TFX's file access on an object store."""

import json
import logging
from contextlib import suppress
from pathlib import Path

import pytest
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.dsl.io import fileio
from tfx.proto.orchestration import execution_result_pb2
from tfx.types.standard_artifacts import Model, String

from anchorage.errors import UsageError
from anchorage.storage import folders, join, list_files, local_input, read_bytes, write_bytes
from anchorage_components import container
from anchorage_components.beam.options import node_flags
from anchorage_components.nodes import on_local_folders, once_stored, uri_of


@pytest.fixture
def bucket(either_bucket):
    return either_bucket


def put(bucket, *names):
    for name in names:
        write_bytes(join(bucket, name), name.encode())


def test_tfx_reads_and_writes(bucket):
    uri = join(bucket, "a/b.txt")
    fileio.makedirs(join(bucket, "a"))
    assert not fileio.exists(join(bucket, "a"))  # a folder comes with its first object
    with fileio.open(uri, "w") as file:
        file.write("two\nlines ü")
    assert read_bytes(uri) == "two\nlines ü".encode()
    with fileio.open(uri) as file:
        assert list(file) == ["two\n", "lines ü"]
    with suppress(ZeroDivisionError), fileio.open(uri, "wb") as file:
        file.write(bytes(1 // 0))
    assert fileio.open(uri, "rb").read() == "two\nlines ü".encode()
    assert fileio.stat(uri).length == 12
    with pytest.raises(OSError, match="Expected no object"):
        fileio.copy(uri, uri)
    fileio.copy(uri, join(bucket, "c.txt"))
    fileio.remove(uri)
    fileio.remove(uri)
    assert (fileio.exists(uri), fileio.exists(join(bucket, "c.txt"))) == (False, True)
    for look in (fileio.open, fileio.stat, fileio.listdir):
        with pytest.raises(fileio.NotFoundError):
            look(uri)


def test_tfx_finds_and_removes(bucket):
    put(bucket, "a/1/x.txt", "a/1/y.bin", "a/2/z/x.txt", "a/x.txt")
    root = join(bucket, "a")
    assert [fileio.isdir(join(root, name)) for name in ("1", "x.txt", "3")] == [True, False, False]
    assert sorted(fileio.listdir(root)) == ["1", "2", "x.txt"]
    assert fileio.glob(join(root, "*/*.txt")) == [join(root, "1/x.txt")]
    assert fileio.glob(join(root, "?")) == [join(root, "1"), join(root, "2")]
    assert fileio.glob(join(root, "1")) == [join(root, "1")]
    assert fileio.glob(join(root, "3")) == []
    walked = [(root, ["1", "2"], ["x.txt"]), (join(root, "1"), [], ["x.txt", "y.bin"])]
    walked += [(join(root, "2"), ["z"], []), (join(root, "2/z"), [], ["x.txt"])]
    assert list(fileio.walk(root)) == walked
    fileio.rmtree(join(root, "1"))
    assert list(list_files(root)) == ["2/z/x.txt", "x.txt"]


@on_local_folders
class Doubling(BaseExecutor):
    """Writes what it reads twice, and notes what it saw."""

    fails = False

    def Do(self, input_dict, output_dict, exec_properties):  # noqa: N802 - TFX's own name
        [given], [made] = input_dict["given"], output_dict["made"]
        Path(made.uri, "part.txt").write_text(Path(given.uri, "part.txt").read_text() * 2)
        self.seen = (given.uri, made.uri, uri_of(given), uri_of(made), output_dict["text"][0].uri)
        once_stored(lambda: exec_properties.append(list(list_files(self.root))))
        if self.fails:
            raise RuntimeError
        result = execution_result_pb2.ExecutorOutput()
        result.output_artifacts["made"].artifacts.append(made.mlmd_artifact)
        return result


@pytest.fixture
def artifacts(bucket):
    put(bucket, "in/part.txt")
    uris = {"given": "in", "made": "out/1", "empty": "out/2", "text": "out/value"}
    found = {name: (String if name == "text" else Model)() for name in uris}
    for name, artifact in found.items():
        artifact.uri = join(bucket, uris[name])
    return found


def run(artifacts, bucket, *, fails=False):
    executor, stored = Doubling(), []
    executor.fails, executor.root = fails, join(bucket, "out")
    outputs = {name: [artifacts[name]] for name in ("made", "empty", "text")}
    result = executor.Do({"given": [artifacts["given"]]}, outputs, stored)
    return executor, result, stored


def test_an_executor_works_on_local_folders(artifacts, bucket):
    uris = {name: artifact.uri for name, artifact in artifacts.items()}
    executor, result, stored = run(artifacts, bucket)
    given, made, *outcome = executor.seen
    assert given[0] == made[0] == "/"
    assert outcome == [uris["given"], uris["made"], uris["text"]]  # TFX itself writes a value
    assert {name: artifact.uri for name, artifact in artifacts.items()} == uris
    assert result.output_artifacts["made"].artifacts[0].uri == uris["made"]
    assert read_bytes(join(bucket, "out/1/part.txt")) == b"in/part.txtin/part.txt"
    assert fileio.exists(uris["empty"])  # or TFX would never take it from the cache
    assert stored == [list(list_files(join(bucket, "out")))]


def test_of_an_output_that_changes_only_the_change_is_copied(artifacts, bucket, monkeypatch):
    made = artifacts["made"].uri
    run(artifacts, bucket)
    write_bytes(join(made, "later.txt"), b"of another machine")
    fetched, fetch = [], folders.fetch_object
    monkeypatch.setattr(folders, "fetch_object", lambda uri, *rest: (fetched.append(uri), fetch(uri, *rest)))
    with local_input(made) as copy:
        assert {file.name: file.read_bytes() for file in copy.iterdir()} == {
            "part.txt": b"in/part.txtin/part.txt",
            "later.txt": b"of another machine",
        }
    assert fetched == [join(made, "later.txt")]


def test_of_an_executor_that_fails_nothing_is_stored(artifacts, bucket):
    uris = {name: artifact.uri for name, artifact in artifacts.items()}
    with pytest.raises(RuntimeError):
        run(artifacts, bucket, fails=True)
    assert list_files(join(bucket, "out")) == {}
    assert {name: artifact.uri for name, artifact in artifacts.items()} == uris


def test_a_container_of_kubeflow(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])  # TFX's program adds one
    kind = {"instanceSchema": "title: anchorage_components.BaselineRelease\ntype: object\n"}
    place = {"uri": "minio://mlpipeline/v2/1/baseline", "type": kind}
    invocation = {
        "inputs": {"parameterValues": {"releases": join(bucket, "releases"), "run_key": ""}},
        "outputs": {"artifacts": {"baseline": {"artifacts": [place]}}, "outputFile": str(tmp_path / "output.json")},
    }
    put(bucket, "artifacts/minio/mlpipeline/v2/1/baseline/half.json")  # of an attempt that was killed
    arguments = ["--executor_class_path", "anchorage_components.find_release.FindRelease_Executor"]
    arguments += ["--json_serialized_invocation_args", json.dumps(invocation)]
    declared = {name: {"parameterType": "STRING"} for name in invocation["inputs"]["parameterValues"]}
    arguments += ["--json_serialized_inputs_spec_args", json.dumps({"parameters": declared})]
    with pytest.raises(SystemExit) as ended:
        container.main(["--artifacts", join(bucket, "artifacts"), *arguments])
    assert not ended.value.code
    [result] = json.loads((tmp_path / "output.json").read_text())["artifacts"]["baseline"]["artifacts"]
    assert result["uri"] == join(bucket, "artifacts/minio/mlpipeline/v2/1/baseline")
    assert list(list_files(result["uri"])) == ["baseline.json"]


def test_workers_elsewhere_do_not_see_the_local_folders():
    elsewhere = ["--runner=FlinkRunner", "--flink_master=flink:8081"]
    assert node_flags(elsewhere)
    with pytest.raises(UsageError, match=r"E_BEAM_RUNNER.*object store.*Received: FlinkRunner"):
        node_flags(elsewhere, is_shared=False)
    assert node_flags(["--direct_running_mode=multi_processing", "--direct_num_workers=2"], is_shared=False)
