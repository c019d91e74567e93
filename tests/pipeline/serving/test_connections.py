"""Limits on the head of a request, over real connections."""

import asyncio
import socket
import threading
from contextlib import contextmanager
from functools import partial

import pytest
import uvicorn

from anchorage_pipeline.serving.http.connections import Connection
from anchorage_pipeline.serving.settings import Limits

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
SECONDS = 0.3
heads = []  # of all requests


async def slow(scope, receive, send):
    """Answers after more than the time for a head."""
    await asyncio.sleep(2 * SECONDS)
    heads.append(scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port():
    protocol = partial(Connection, limits=Limits(request_seconds=SECONDS))
    server = uvicorn.Server(uvicorn.Config(slow, http=protocol, log_level="warning", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        yield connection


def answered(connection):
    text = b""
    while not text.endswith(b"ok"):
        received = connection.recv(1000)
        assert received, text
        text += received


@pytest.mark.parametrize("sent", [b"", b"G", HEAD])
def test_a_head_that_does_not_end_is_not_waited_for(port, sent):
    with connected(port) as connection:
        connection.sendall(sent)
        assert connection.recv(1000) == b""  # closed


def test_a_second_head_that_does_not_end_is_not_waited_for(port):
    with connected(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        answered(connection)
        connection.sendall(HEAD)
        assert connection.recv(1000) == b""


def test_the_time_for_an_answer_and_between_requests_is_another(port):
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(HEAD + b"\r\n")
            answered(connection)


def test_fields_after_the_body_are_not_added_to_the_head(port):
    with connected(port) as connection:
        head = HEAD.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"1\r\na\r\n0\r\nAuthorization: Bearer key\r\n\r\n")
        answered(connection)
    assert b"authorization" not in dict(heads[-1])
