"""One call of a model server: deadlines, lost connections, and several addresses, against small servers."""

import gc
import http.server
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tensorflow as tf
from http_servers import answering
from tensorflow_serving.apis.predict_pb2 import PredictResponse
from tensorflow_serving.apis.prediction_service_pb2_grpc import (
    PredictionServiceServicer,
    add_PredictionServiceServicer_to_server,
)

from anchorage.errors import ResourceError
from anchorage_pipeline.serving.calls import LateError, UnreachableError
from anchorage_pipeline.serving.transports import OpenInference, TensorFlowServing

EMBEDDINGS = np.arange(6, dtype=np.float32).reshape(2, 3)
VECTORS = np.ones((2, 4), np.float32)


class Predicting(PredictionServiceServicer):
    def __init__(self, output):
        self.output, self.calls = output, 0

    def Predict(self, request, context):  # noqa: N802
        self.calls += 1
        response = PredictResponse()
        response.outputs["embeddings"].CopyFrom(self.output)
        return response


@contextmanager
def predicting(port=0, output=None):
    """A gRPC server; yields its port and its service."""
    service = Predicting(tf.make_tensor_proto(EMBEDDINGS) if output is None else output)
    server = grpc.server(ThreadPoolExecutor(2))
    add_PredictionServiceServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound, service
    finally:
        server.stop(None).wait()


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def answers(transport):
    try:
        return transport("vectors", VECTORS, 10)
    except UnreachableError:  # until it connects again
        return None


def test_all_addresses_share_the_calls_and_one_that_ends_leaves_the_other():
    with predicting() as (other, second):
        with predicting() as (port, first):
            transport = TensorFlowServing(f"ipv4:127.0.0.1:{port},127.0.0.1:{other}", "anchorage", 1)
            until(lambda: answers(transport) and first.calls and second.calls)
        until(lambda: answers(transport))


def test_a_grpc_transport_that_is_dropped_leaves_no_thread():
    before = threading.active_count()
    with predicting() as (port, _):
        transport = TensorFlowServing(f"127.0.0.1:{port}", "anchorage", 1)
        transport("vectors", VECTORS, 10)
        del transport
        gc.collect()
    until(lambda: threading.active_count() <= before)


def test_outputs_that_cannot_be_read_are_an_error_of_the_server():
    damaged = tf.make_tensor_proto(EMBEDDINGS)
    damaged.tensor_shape.dim[0].size = 5
    with predicting(output=damaged) as (port, _):
        transport = TensorFlowServing(f"127.0.0.1:{port}", "anchorage", 1)
        with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .* what cannot be read"):
            transport("vectors", VECTORS, 10)


OUTPUT = {"name": "embeddings", "datatype": "FP32", "shape": [2, 3], "data": [*range(6)]}
ANSWER = json.dumps({"outputs": [OUTPUT]}).encode()


@contextmanager
def inferring(answer):
    """An HTTP server that answers by `answer(handler)`, which has read the request; yields its address."""
    ports = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            ports.add(self.client_address[1])
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, *arguments):
            pass

    with answering(Handler) as server:
        yield f"127.0.0.1:{server.server_port}", ports


def send(handler, body=ANSWER, length=None, headers=()):
    handler.send_response(200)
    handler.send_header("Content-Length", str(length or len(body)))
    for name, value in headers:
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def test_an_http_connection_is_kept_and_its_end_is_counted():
    ended = threading.Event()

    def answer(handler):
        send(handler)
        handler.close_connection = ended.is_set()  # without a word, as a server that is stopped

    with inferring(answer) as (address, ports):
        transport = OpenInference(address, "anchorage", 1)
        for _ in range(3):
            np.testing.assert_array_equal(transport("vectors", VECTORS, 10)["embeddings"], EMBEDDINGS)
        assert (len(ports), transport.losses) == (1, 0)
        ended.set()
        transport("vectors", VECTORS, 10)
        time.sleep(0.2)
        transport("vectors", VECTORS, 10)  # does not fail
        assert (len(ports), transport.losses) == (2, 1)


def test_a_server_that_closes_each_connection_as_announced():
    with inferring(lambda handler: send(handler, headers=[("Connection", "close")])) as (address, ports):
        transport = OpenInference(address, "anchorage", 1)
        for _ in range(3):
            np.testing.assert_array_equal(transport("vectors", VECTORS, 10)["embeddings"], EMBEDDINGS)
        assert (len(ports), transport.losses) == (3, 0)


def test_an_answer_that_trickles_in_is_late():
    def trickle(handler):
        send(handler, b"", length=1000)
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    with inferring(trickle) as (address, _):
        transport = OpenInference(address, "anchorage", 1)
        started = time.monotonic()
        with pytest.raises(LateError):
            transport("vectors", VECTORS, 0.3)
        assert time.monotonic() - started < 2
        assert transport.losses == 1


def test_a_server_that_is_killed_in_its_answer_is_tried_again():
    def half(handler):
        send(handler, ANSWER[:20], length=len(ANSWER))
        handler.close_connection = True

    with inferring(half) as (address, _):
        transport = OpenInference(address, "anchorage", 1)
        with pytest.raises(UnreachableError, match="IncompleteRead"):
            transport("vectors", VECTORS, 10)
    with pytest.raises(UnreachableError):
        transport("vectors", VECTORS, 10)


def test_a_process_ends_with_a_channel_that_nobody_closed():
    program = (
        "from anchorage_pipeline.serving.transports import TensorFlowServing\n"
        "transport = TensorFlowServing('127.0.0.1:9', 'anchorage', 1)\n"
        "transport.itself = transport\n"  # freed at the end of the process, if at all
        "del transport\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
