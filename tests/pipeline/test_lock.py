import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from anchorage.errors import ResourceError
from anchorage_pipeline.cli import main
from anchorage_pipeline.datasets.shapes import draw_shapes
from anchorage_pipeline.lock import LOCK, hold_folder

_HOLDER = """
import sys, time
from pathlib import Path
from anchorage_pipeline.lock import hold_folder
with hold_folder(Path(sys.argv[1]), "toy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder until its input is closed."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "runs/toy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_f24_a_second_command_stops_at_once_and_names_the_first(tmp_path, holder):
    with pytest.raises(ResourceError, match=r"E_RUN_LOCKED") as caught, hold_folder(tmp_path / "runs/toy", "toy"):
        pytest.fail("two commands hold one folder")
    assert caught.value.exit_status == 4
    for part in (f"process {holder.pid} on {socket.gethostname()}", "experiment 'toy'", "started 20"):
        assert part in caught.value.message


def test_f24_a_killed_holder_leaves_the_folder_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / "runs/toy" / LOCK).read_text())["pid"] == holder.pid
    with hold_folder(tmp_path / "runs/toy", "mine"):
        result = json.loads((tmp_path / "runs/toy" / LOCK).read_text())
        assert (result["pid"], result["experiment"]) == (os.getpid(), "mine")
    assert (tmp_path / "runs/toy" / LOCK).read_text() == ""


def test_f24_run_train_and_compare_are_refused_where_one_is_at_work(tmp_path, holder, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_shapes(tmp_path / "data")
    text = 'name = "toy"\n[data]\npath = "data"\nimage_size = 32\n[encoder]\nname = "small"\n'
    (tmp_path / "toy.toml").write_text(text)
    (tmp_path / "compare.toml").write_text(
        'name = "toy"\nexperiment = "toy.toml"\nprimary = "map@r"\n[[entries]]\nname = "a"\n'
    )
    before = sorted(path.name for path in (tmp_path / "runs/toy").iterdir())
    for command in (["run", "toy.toml"], ["train", "toy.toml", "--output", "runs/toy"], ["compare", "compare.toml"]):
        assert main(command) == 4, command
        assert "E_RUN_LOCKED" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "runs/toy").iterdir()) == before


def test_rejects_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ResourceError, match=r"E_LOCK_UNSUPPORTED.*No locks available"), hold_folder(tmp_path, "toy"):
        pytest.fail("held without a lock")


def test_f18_a_file_in_place_of_the_folder_is_a_resource_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with (
        pytest.raises(ResourceError, match=r"E_NOT_WRITABLE.*runs/toy.*a file of this name exists"),
        hold_folder(tmp_path / "runs/toy", "toy"),
    ):
        pytest.fail("held a file")
