"""`anchorage embed` on engines whose workers are other processes, also when one is killed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from anchorage.errors import ResourceError
from anchorage_components.beam import bulk
from anchorage_components.beam.running import _children

IMAGES = 200  # each a shard of its own: many seconds' work, so that the first is done long before the last


@pytest.fixture(scope="module")
def photos(tmp_path_factory, picture):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(IMAGES):
        (folder / f"{number:03}.png").write_bytes(picture(number) if number % 50 else b"no image")
    return folder


@pytest.fixture
def _small_shards(monkeypatch):
    monkeypatch.setattr(bulk, "_SHARD", 1)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, photos, saved_model):
    """The files of a run in this process."""
    folder = tmp_path_factory.mktemp("expected") / "table"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_SHARD", 1)
        assert bulk.embed_files([photos], saved_model, folder) == (IMAGES - 4, 4, 0)
    return content(folder)


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    """Flags of a job service and a worker pool, each a process of its own, and the process of the pool."""
    job, pool = free_port(), free_port()
    folder = tmp_path_factory.mktemp("engine")
    commands = {
        job: ["apache_beam.runners.portability.local_job_service_main", f"--port={job}"],
        pool: ["apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}"],
    }
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with contextlib.ExitStack() as stack:
        processes = {}
        for port, command in commands.items():
            log = stack.enter_context((folder / f"{port}.log").open("wb"))
            started = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log, env=environment)
            processes[port] = started
            stack.callback(end, started)
        for port in commands:
            wait_until(lambda port=port: listens(port))
        flags = ["--runner=PortableRunner", f"--job_endpoint=localhost:{job}", "--environment_type=EXTERNAL"]
        yield [*flags, f"--environment_config=localhost:{pool}"], processes[pool].pid


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


def wait_until(true, seconds=500):
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.02)


def end(process):
    for child in _children(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait()


def content(folder):
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


class Clock:
    """The time, which can be put forward."""

    ahead = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead


@contextlib.contextmanager
def killed_worker(folder, parent, clock=None):
    """Kill a worker among the descendants of a process with SIGKILL when the first shard is finished."""

    def kill():
        wait_until(lambda: list(folder.glob("vectors-*.parquet")))
        workers = [pid for pid in _children(parent) if b"sdk_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(max(workers), signal.SIGKILL)
        if clock:
            time.sleep(2)  # a shard that was finished is seen by now
            clock.ahead = 3600.0

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()


@pytest.mark.thorough
@pytest.mark.usefixtures("_small_shards")
def test_killed_worker_of_the_local_runner_is_an_error_and_the_next_run_completes(
    tmp_path, photos, saved_model, expected, monkeypatch
):
    # Beam starts its workers as `python`.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    flags = ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    before = _children()
    with (
        killed_worker(tmp_path / "table", os.getpid()),
        pytest.raises(ResourceError, match=r"E_BEAM_WORKER: .* Run the same command again"),
    ):
        bulk.embed_files([photos], saved_model, tmp_path / "table", flags)
    wait_until(lambda: _children() <= before)
    done = len(list((tmp_path / "table").glob("vectors-*.parquet")))
    assert 0 < done < IMAGES
    flags[-1] = "--direct_num_workers=1"
    assert bulk.embed_files([photos], saved_model, tmp_path / "table", flags) == (IMAGES - 4, 4, done)
    assert content(tmp_path / "table") == expected


@pytest.mark.thorough
@pytest.mark.usefixtures("_small_shards")
def test_killed_worker_of_a_job_service_is_an_error_and_the_next_run_completes(
    tmp_path, photos, saved_model, expected, portable, monkeypatch
):
    clock = Clock()
    monkeypatch.setattr("anchorage_components.beam.running.time", clock)
    flags, pool = portable
    with (
        killed_worker(tmp_path / "table", pool, clock),
        pytest.raises(ResourceError, match=r"E_BEAM_(WORKER|STALLED): .* command again; it resumes"),
    ):
        bulk.embed_files([photos], saved_model, tmp_path / "table", flags)
    done = len(list((tmp_path / "table").glob("vectors-*.parquet")))
    assert 0 < done < IMAGES
    assert bulk.embed_files([photos], saved_model, tmp_path / "table", flags) == (IMAGES - 4, 4, done)
    assert content(tmp_path / "table") == expected
