"""Releases on a hub: an endpoint in this process takes what the hub's own client sends."""

import base64
import json
from http.server import BaseHTTPRequestHandler

import pytest
from http_servers import answering
from vector_releases import publish_vectors, unit_vectors

from anchorage.errors import ResourceError, UsageError
from anchorage.release import open_release
from anchorage.serving.hub_export import push_release
from anchorage_pipeline.cli import main

pytest.importorskip("huggingface_hub")


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that creates repositories and commits; all files are small enough for the commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        if self.headers["Authorization"] != "Bearer token":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            server.created = json.loads(body)
            self._answer(200, {"url": f"{server.url}/me/shop"})
        elif self.path == "/api/models/me/shop/preupload/main":
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            self._answer(200, {"files": [{**each, "shouldIgnore": False} for each in files]})
        elif self.path == "/api/models/me/shop/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(200, {"commitUrl": f"{server.url}/me/shop/commit/0", "commitOid": "0" * 40})
        else:
            self._answer(404, {"error": self.path})

    def _answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    with answering(Hub) as server:
        server.url, server.files, server.created = f"http://127.0.0.1:{server.server_port}", {}, None
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "token")
        yield server


@pytest.fixture
def release(tmp_path):
    return publish_vectors(tmp_path, unit_vectors(12))


def test_a_release_on_the_hub_is_a_folder_of_releases(hub, release, tmp_path, capsys):
    assert main(["export", "hub", str(release.path.parent), "--to", "me/shop"]) == 0
    assert f"export   release 1 to {hub.url}/me/shop" in capsys.readouterr().out
    assert (hub.created["name"], hub.created["organization"]) == ("shop", "me")
    assert hub.created["visibility"] == "private"
    for name, content in hub.files.items():
        path = tmp_path / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert open_release(tmp_path / "downloaded").manifest == release.manifest


def test_a_refused_upload_says_what_to_do(hub, release, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(ResourceError, match=r"E_HUB_REFUSED: .*401.* Log in with `hf auth login`"):
        push_release(release, "me/shop")
    assert not hub.files
    with pytest.raises(UsageError, match=r"E_HUB_NAME: Expected NAME or ORGANIZATION/NAME\. Received: 'a/b/c'"):
        push_release(release, "a/b/c")
