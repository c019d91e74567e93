"""The real process: it is killed and comes back with what it acknowledged, and stops without a failed request."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from anchorage_pipeline.cli import create_parser

KEY = "a key of the tests"
WRITES = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}


class Process:
    """`anchorage serve` on a free port."""

    def __init__(self, releases: Path):
        command = [sys.executable, "-m", "anchorage_pipeline.cli", "serve", "--json"]
        command += ["--release", str(releases), "--http", "0"]
        environment = {**os.environ, "ANCHORAGE_API_KEY": KEY}
        self.log = releases.parent / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        lines = []
        for line in self.process.stdout:  # the document ends when the service is ready
            lines.append(line)
            if line.rstrip() == "}":
                break
        document = json.loads("".join(lines))
        self.host, self.port = "127.0.0.1", int(document["url"].rpartition(":")[2])

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def put(self, name, number):
        vector = [float(number == place) for place in range(48)]
        return self.ask("PUT", f"/v1/items/{name}", json.dumps({"vector": vector, "label": name}), WRITES)


@contextmanager
def serving(releases):
    process = Process(releases)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()
        process.process.stdout.close()


def refuses_endless_headers(service):
    """The connection is closed after 64 KiB and what is on its way, not after 50 MB, and others are answered."""
    sent = 0
    with socket.create_connection((service.host, service.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                sent += connection.send(b"a" * 100_000)
    assert sent < 20_000_000
    head = {f"X-{number}": "a" * 1000 for number in range(40)}
    assert [service.ask("GET", "/readyz", headers=head)[0] for _ in range(2)] == [200, 200]


def logs_nothing_of_what_is_no_http(service):
    with socket.create_connection((service.host, service.port), timeout=60) as connection:
        connection.sendall(b"no request\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    upgrade = {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert service.ask("GET", "/readyz", headers={**upgrade, "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})[0] == 200
    assert service.log.read_text() == ""


def test_acknowledged_items_survive_a_kill_and_a_stop_answers_what_is_open(releases, images):
    acknowledged = []
    with serving(releases) as service:
        assert service.ask("GET", "/readyz")[0] == 200
        assert service.log.read_text() == ""  # nothing of TensorFlow between the lines of a log
        assert service.ask("HEAD", "/readyz") == (200, b"")
        wish = {"Content-Type": "image/png", "Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}  # Java's
        assert service.ask("POST", "/v1/search", images[0], {**wish, "HTTP2-Settings": "AAEAAEAA"})[0] == 200
        refuses_endless_headers(service)
        logs_nothing_of_what_is_no_http(service)
        status, body = service.ask("POST", "/v1/search?k=1", images[0], {"Content-Type": "image/png"})
        assert (status, json.loads(body)["left_out"]) == (200, ["class-0/0.png"])

        def write():
            for number in range(1000):
                try:
                    if service.put(f"item-{number}", number)[0] == 200:
                        acknowledged.append(f"item-{number}")
                except OSError:
                    return  # killed

        writer = threading.Thread(target=write)
        writer.start()
        while len(acknowledged) < 20:
            time.sleep(0.01)
        service.process.send_signal(signal.SIGKILL)
        writer.join()

    with serving(releases) as service:
        for name in acknowledged:
            status, body = service.ask("GET", f"/v1/items/{name}")
            assert (status, json.loads(body)["label"]) == (200, name)

        statuses, stopped = [], threading.Event()

        def search():
            while True:
                try:
                    statuses.append(service.ask("POST", "/v1/search", images[1], {"Content-Type": "image/png"})[0])
                except ConnectionRefusedError:
                    return
                except OSError:
                    assert stopped.is_set()  # a connection that was made while the port was closed
                    return

        searchers = [threading.Thread(target=search) for _ in range(4)]
        for searcher in searchers:
            searcher.start()
        while len(statuses) < 40:
            time.sleep(0.01)
        stopped.set()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=60) == 0
        for searcher in searchers:
            searcher.join()
        assert set(statuses) == {200}


def test_other_commands_do_not_load_the_service():
    code = "import sys, anchorage_pipeline.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'fastapi', 'uvicorn', 'sqlalchemy', 'prometheus_client', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_serve_declares_its_defaults():
    options = create_parser("serve").parse_args(["serve"])
    assert (options.host, options.http, options.keep_images) == ("127.0.0.1", 8080, False)
