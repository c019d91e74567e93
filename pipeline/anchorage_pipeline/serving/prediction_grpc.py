"""TensorFlow Serving's gRPC API, PredictionService and ModelService, for clients with the stubs of that project."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2 as status_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from tensorflow_serving.apis.prediction_service_pb2_grpc import (
    PredictionServiceServicer,
    add_PredictionServiceServicer_to_server,
)

from anchorage.errors import ResourceError
from anchorage_pipeline.serving.prediction import ModelSpec, Prediction, Refusal, check_tensor
from anchorage_pipeline.serving.service import Service

_FIELD = "signature_def"

_log = logging.getLogger(__name__)


@asynccontextmanager
async def serve_grpc(service: Service, host: str, port: int) -> AsyncIterator[int]:
    """Serve until the block ends; open requests are then answered.

    Args:
        service: what answers.
        host: address to listen on.
        port: 0 for a free one.

    Yields:
        The port.

    Raises:
        ResourceError: `E_PORT_TAKEN`.
    """
    limits = service.settings.limits
    options = [
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.so_reuseport", 0),
        ("grpc.max_metadata_size", 16 * 1024),
    ]
    server = grpc.aio.server(interceptors=[_Decoding()], options=options, maximum_concurrent_rpcs=limits.pending)
    prediction = Prediction(service)
    add_PredictionServiceServicer_to_server(_PredictionService(prediction), server)
    add_ModelServiceServicer_to_server(_ModelService(prediction), server)
    try:
        bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise ResourceError(
            "E_PORT_TAKEN", f"Expected to listen on {host}, port {port}. Received: {error}. Choose another with --grpc"
        ) from error
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(service.settings.stop_seconds)


async def _unimplemented(service: Any, request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Expected Predict, GetModelMetadata or GetModelStatus")


class _Decoding(grpc.aio.ServerInterceptor):
    """Refuses bytes that are no message of their method, which the library reports as a fault of this program."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler

        def decode(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except DecodeError as error:
                return error

        async def answer(request: Any, context: Any) -> Any:
            if isinstance(request, DecodeError):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Expected a protocol message. {request}")
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, decode, handler.response_serializer)


class _PredictionService(PredictionServiceServicer):
    Classify = Regress = MultiInference = _unimplemented

    def __init__(self, prediction: Prediction):
        self._prediction = prediction

    async def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        async with _answered(context):
            spec = _spec(request)
            inputs = self._inputs(spec, request)
            seconds = context.time_remaining() or 0
            predicted = await self._prediction.predict(spec, inputs, list(request.output_filter), seconds)
            return _response(spec, predicted)

    def _inputs(self, spec: ModelSpec, request: Any) -> dict[str, np.ndarray]:
        """Read the arrays of a request; of an input of the signature, type and shape are checked first."""
        import tensorflow as tf

        expected, info = self._prediction.input_of(spec)
        inputs = {}
        for name, value in request.inputs.items():
            if name != expected:
                inputs[name] = np.empty(0)  # refused by its name
                continue
            try:
                dtype, shape = tf.as_dtype(value.dtype), [dim.size for dim in value.tensor_shape.dim]
                check_tensor(name, info, dtype, shape, self._prediction.limits.pending)
                inputs[name] = tf.make_ndarray(value)
            except (TypeError, ValueError, OverflowError) as error:  # the last for an int_val beyond its type
                raise Refusal("INVALID_ARGUMENT", f"tensor parsing error: {name}: {str(error)[:200]}") from error
        return inputs

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with _answered(context):
            spec = _spec(request)
            if not request.metadata_field:
                raise Refusal("INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field")
            for name in request.metadata_field:
                if name != _FIELD:
                    raise Refusal("INVALID_ARGUMENT", f"Metadata field {name[:100]} is not supported")
            version, signatures = self._prediction.signatures(spec)
            response = metadata_pb2.GetModelMetadataResponse(model_spec=model_pb2.ModelSpec(name=spec.name))
            response.model_spec.version.value = version
            response.metadata[_FIELD].Pack(metadata_pb2.SignatureDefMap(signature_def=dict(signatures)))
            return response


class _ModelService(ModelServiceServicer):
    HandleReloadConfigRequest = _unimplemented

    def __init__(self, prediction: Prediction):
        self._prediction = prediction

    async def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with _answered(context):
            available = status_pb2.ModelVersionStatus.AVAILABLE
            versions = [
                status_pb2.ModelVersionStatus(version=version, state=available, status={})
                for version in self._prediction.versions(_spec(request))
            ]
            return status_pb2.GetModelStatusResponse(model_version_status=versions)


@asynccontextmanager
async def _answered(context: Any) -> AsyncIterator[None]:
    """End the call with the status of a refusal, and without the details of a fault of this program."""
    try:
        yield
    except Refusal as refusal:
        await context.abort(grpc.StatusCode[refusal.status], refusal.message)
    except grpc.aio.AbortError:
        raise
    except Exception:
        _log.exception("a call failed")
        await context.abort(grpc.StatusCode.INTERNAL, "Received an internal error, which the log of the service has")


def _spec(request: Any) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise Refusal("INVALID_ARGUMENT", "Missing ModelSpec")
    spec = request.model_spec
    if spec.WhichOneof("version_choice") == "version_label":
        raise Refusal("INVALID_ARGUMENT", f"Unrecognized servable version label: {spec.version_label[:100]}")
    version = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
    return ModelSpec(spec.name, version, spec.signature_name)


def _response(spec: ModelSpec, predicted: Any) -> Any:
    import tensorflow as tf

    response = predict_pb2.PredictResponse()
    response.model_spec.name, response.model_spec.signature_name = spec.name, predicted.signature
    response.model_spec.version.value = predicted.version
    for name, value in predicted.outputs.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    return response
