"""One call of a model server: TensorFlow Serving's Predict over gRPC, and the open inference protocol over HTTP."""

import http.client
import json
import struct
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
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
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
        return {output: tf.make_ndarray(value) for output, value in response.outputs.items()}


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
        connection = http.client.HTTPConnection(self._host, timeout=seconds)
        try:
            connection.request("POST", self._path, head + content, headers)
            response = connection.getresponse()
            status, body = response.status, response.read(_ANSWER_BYTES)
        except TimeoutError as error:
            raise LateError from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(repr(error)) from error
        finally:
            connection.close()
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


def _array(output: Mapping[str, Any]) -> np.ndarray:
    return np.array(output["data"], _TYPES[output["datatype"]]).reshape(output["shape"])


def _refused(host: str, reason: str) -> ResourceError:
    return ResourceError("E_MODEL_SERVER", f"Expected an answer from {host}. Received: {reason[:300]}")
