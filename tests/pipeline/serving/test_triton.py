"""Embedding on a real Triton server, from the environment of `make triton`."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from exported import picture, publish_exported, publish_two

from anchorage.errors import DataError, ResourceError
from anchorage.release import open_release
from anchorage.serving.embedders import LocalEmbedder
from anchorage_pipeline.serving.model_servers import ServerSettings, connect_server
from anchorage_pipeline.serving.triton_repository import write_repository

ENVIRONMENT = Path(__file__).parents[3] / ".venv-triton"
PACKAGES = ENVIRONMENT / "lib/python3.11/site-packages"
SERVER = PACKAGES / "pytriton/tritonserver"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SERVER / "bin/tritonserver").is_file(), reason="no Triton: `make triton` installs it"),
]
PATIENT = ServerSettings(call_seconds=120, tries=1000, pause_seconds=0.1)
QUICK = ServerSettings(call_seconds=5, tries=2)


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """A folder of two releases with different encoders."""
    return publish_two(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def port(releases, tmp_path_factory):
    """The port of a Triton that serves both versions of the folder."""
    folder = tmp_path_factory.mktemp("triton")
    for version in (1, 2):
        write_repository(open_release(releases, version), folder / "repository")
    backend = shutil.copytree(SERVER / "backends", folder / "backends") / "python"
    shutil.copy(SERVER / "python_backend_stubs/3.11/triton_python_backend_stub", backend)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        SERVER / "bin/tritonserver",
        f"--model-repository={folder / 'repository'}",
        f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    environment = {
        "LD_LIBRARY_PATH": str(PACKAGES / "nvidia_pytriton.libs"),
        "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}",  # whose packages the backend uses
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + 120
        while process.poll() is None and "Started HTTPService" not in (folder / "log").read_text():
            assert time.monotonic() < end
            time.sleep(0.2)
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("version", [1, 2])
def test_embeddings_are_those_of_the_saved_model(releases, port, version):
    release = open_release(releases, version)
    embedder = connect_server(f"triton:127.0.0.1:{port}", release, PATIENT)
    images = [picture(seed, kind) for seed, kind in ((1, "PNG"), (2, "JPEG"), (3, "WebP"))]
    np.testing.assert_allclose(embedder.embed(images), LocalEmbedder(release).embed(images), atol=1e-5)
    with pytest.raises(DataError, match="E_RECORD_REFUSED"):
        embedder.embed([b"no image"])


def test_a_version_or_model_that_it_does_not_have(releases, port, tmp_path):
    third = shutil.copytree(releases, tmp_path / "releases")
    publish_exported(tmp_path, 2)
    with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .* 404: .*version 3 is not found"):
        connect_server(f"triton:127.0.0.1:{port}", open_release(third), QUICK)
    with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .* 404: .*unknown model: 'other'"):
        connect_server(f"triton:127.0.0.1:{port}/other", open_release(releases), QUICK)


def test_another_model_under_the_same_version(releases, port, tmp_path):
    folder = tmp_path / "swapped"
    for seed in (1, 0):
        publish_exported(folder, seed)
    with pytest.raises(DataError, match="E_RELEASE_MIXED"):
        connect_server(f"triton:127.0.0.1:{port}", open_release(folder / "releases"), QUICK)
