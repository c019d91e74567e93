"""One call of a model server: TensorFlow Serving's Predict over gRPC, and the open inference protocol over HTTP."""

import http.client
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from anchorage.errors import ResourceError
from anchorage_pipeline.serving.calls import LateError, UnreachableError

_ANSWER_BYTES = 64 * 2**20
_TYPES = {"FP32": np.float32, "BOOL": np.bool_}


class TensorFlowServing:
    """Calls `Predict` of TensorFlow Serving.

    gRPC connects again by itself, and tells of it only through a subscription whose thread can block the end of a
    process: `losses` stays 0.

    Args:
        host: `HOST:PORT` of its gRPC API.
        name: name of the model.
        version: version of the release.
    """

    def __init__(self, host: str, name: str, version: int):
        options = [
            ("grpc.max_receive_message_length", _ANSWER_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),  # the caller counts its tries
            ("grpc.lb_policy_name", "round_robin"),  # all addresses of the host share the calls
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 300),  # within the tries of a call
        ]
        self.losses = 0
        self._channel = grpc.insecure_channel(host, options)
        self._stub = PredictionServiceStub(self._channel)
        self._host, self._name, self._version = host, name, version

    def __call__(self, name: str, records: Sequence[bytes] | np.ndarray, seconds: float) -> Mapping[str, np.ndarray]:
        """See `Transport`."""
        import tensorflow as tf

        request = PredictRequest()
        request.model_spec.name, request.model_spec.version.value = self._name, self._version
        request.inputs[name].CopyFrom(tf.make_tensor_proto(records))
        try:
            response = self._stub.Predict(request, timeout=seconds)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise UnreachableError(error.details()) from error
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise LateError from error
            raise _refused(self._host, f"{error.code().name}: {error.details()}") from error
        try:
            return {output: tf.make_ndarray(value) for output, value in response.outputs.items()}
        except (ValueError, TypeError) as error:
            raise _refused(self._host, f"what cannot be read: {error!r}") from error


class OpenInference:
    """Calls `infer` of the open inference protocol (KServe v2), with its extension for binary data.

    Args:
        host: `HOST:PORT` of its HTTP API.
        name: name of the model.
        version: version of the release.
    """

    def __init__(self, host: str, name: str, version: int):
        self._host = host
        self._path = f"/v2/models/{name}/versions/{version}/infer"
        self._local = threading.local()  # a connection for each thread, kept so that its loss is noticed
        self.losses = 0

    def __call__(self, name: str, records: Sequence[bytes] | np.ndarray, seconds: float) -> Mapping[str, np.ndarray]:
        """See `Transport`."""
        if isinstance(records, np.ndarray):
            kind, shape, content = "FP32", list(records.shape), records.astype("<f4").tobytes()
        else:
            kind, shape = "BYTES", [len(records)]
            content = b"".join(struct.pack("<I", len(record)) + record for record in records)
        tensor = {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(content)}}
        head = json.dumps({"id": "1", "inputs": [tensor]}).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        end = time.monotonic() + seconds
        connection = self._connection()
        try:
            connection.timeout = seconds
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(seconds)
            connection.request("POST", self._path, head + content, headers)
            status, body = _answer(connection, end)
        except TimeoutError as error:
            self._drop(connection)
            raise LateError from error
        except (OSError, http.client.HTTPException) as error:
            self._drop(connection)
            raise UnreachableError(repr(error)) from error
        if status == 503:
            raise UnreachableError("503, not ready")
        try:
            answer: dict[str, Any] = json.loads(body)
            if status == 200:
                return {output["name"]: _array(output) for output in answer["outputs"]}
            reason = f"{status}: {answer['error']}"
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{status} and what cannot be read: {error!r}"
        raise _refused(self._host, reason)

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._host)
        connection: http.client.HTTPConnection = self._local.connection
        if connection.sock is not None and _is_ended(connection.sock):
            self._drop(connection)
        return connection

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self.losses += 1


def _is_ended(connection: socket.socket) -> bool:
    """Return whether an idle connection has something to read: its end, as there is no answer without a request."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _answer(connection: http.client.HTTPConnection, end: float) -> tuple[int, bytes]:
    """Return status and body of an answer that is complete before `end`, however slowly it comes."""
    stream = connection.sock
    with connection.getresponse() as response:
        body = bytearray()
        while part := response.read1(2**16):
            body += part
            if (left := end - time.monotonic()) <= 0:
                raise TimeoutError
            if len(body) > _ANSWER_BYTES:
                raise http.client.HTTPException(f"an answer of more than {_ANSWER_BYTES} bytes")
            stream.settimeout(left)
        if response.length:
            raise http.client.IncompleteRead(bytes(body[:100]), response.length)
        return response.status, bytes(body)


def _array(output: Mapping[str, Any]) -> np.ndarray:
    return np.array(output["data"], _TYPES[output["datatype"]]).reshape(output["shape"])


def _refused(host: str, reason: str) -> ResourceError:
    return ResourceError("E_MODEL_SERVER", f"Expected an answer from {host}. Received: {reason[:300]}")
