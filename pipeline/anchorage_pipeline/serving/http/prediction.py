"""TensorFlow Serving's REST API: `POST /v1/models/NAME:predict`, status and metadata."""

import base64
import binascii
import gc
import json
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from starlette.responses import JSONResponse

from anchorage.errors import UsageError
from anchorage_pipeline.serving.http.bodies import read_body
from anchorage_pipeline.serving.http.problems import responses
from anchorage_pipeline.serving.prediction import ModelSpec, Prediction, Refusal
from anchorage_pipeline.serving.service import Service
from anchorage_pipeline.serving.signatures import MODEL

_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_BODY = {
    "type": "object",
    "description": "Exactly one of `instances` and `inputs`.",
    "properties": {
        "signature_name": {"type": "string"},
        "instances": {"type": "array", "description": "Rows: values, or objects of values by input name."},
        "inputs": {"description": "Columns: the values of the input, or an object of values by input name."},
    },
}

Name = Annotated[str, Path(pattern="^[^/:]+$", description=f"Name of the model: {MODEL}.")]
Version = Annotated[int, Path(ge=0, le=2**63 - 1, description="Version of a loaded release.")]


def prediction_router(service: Service) -> APIRouter:
    """Return the routes of the API; errors have the form of TensorFlow Serving."""
    router = APIRouter(tags=["TensorFlow Serving"])
    prediction = Prediction(service)
    documented: dict[int | str, dict[str, Any]] = {
        status: {"description": "Refused", "content": {"application/json": {"schema": _ERROR}}}
        for status in sorted(set(_STATUS.values()))
    }
    errors = responses(413)
    for number, response in documented.items():  # those that the guard gives, too, have either form
        content = {**errors.get(number, {}).get("content", {}), **response["content"]}
        errors[number] = {**response, "content": content}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}}}

    async def predict(request: Request, spec: ModelSpec) -> JSONResponse:
        try:
            content = _parse(await read_body(request, service.settings.limits.body_bytes))
            spec = ModelSpec(spec.name, spec.version, content.get("signature_name", ""))
            name, info = prediction.input_of(spec)
            rows, values = _values(content, name)
            _check_rows(values, service.settings.limits.pending)
            predicted = await prediction.predict(spec, {name: _array(name, info, values)})
        except Refusal as refusal:
            return _refuse(refusal)
        outputs = {name: value.tolist() for name, value in predicted.outputs.items()}
        if not rows:
            return JSONResponse({"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))})
        if len(outputs) == 1:
            return JSONResponse({"predictions": next(iter(outputs.values()))})
        each = zip(*outputs.values(), strict=True)
        return JSONResponse({"predictions": [dict(zip(outputs, row, strict=True)) for row in each]})

    def status(spec: ModelSpec) -> JSONResponse:
        try:
            versions = prediction.versions(spec)
        except Refusal as refusal:
            return _refuse(refusal)
        health = {"error_code": "OK", "error_message": ""}
        states = [{"version": str(version), "state": "AVAILABLE", "status": health} for version in versions]
        return JSONResponse({"model_version_status": states})

    def metadata(spec: ModelSpec) -> JSONResponse:
        from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

        try:
            version, signatures = prediction.signatures(spec)
        except Refusal as refusal:
            return _refuse(refusal)
        listed = {
            name: MessageToDict(each, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
            for name, each in signatures.items()
        }
        described = {"name": spec.name, "signature_name": "", "version": str(version)}
        return JSONResponse({"model_spec": described, "metadata": {"signature_def": {"signature_def": listed}}})

    @router.post("/v1/models/{name}:predict", summary="Embed a batch", responses=errors, openapi_extra=body)
    async def predict_current(request: Request, name: Name) -> JSONResponse:
        return await predict(request, ModelSpec(name))

    @router.post(
        "/v1/models/{name}/versions/{version}:predict",
        summary="Embed a batch with one release",
        responses=errors,
        openapi_extra=body,
    )
    async def predict_version(request: Request, name: Name, version: Version) -> JSONResponse:
        return await predict(request, ModelSpec(name, version))

    @router.get("/v1/models/{name}", summary="Versions that are loaded", responses=errors)
    async def status_all(name: Name) -> JSONResponse:
        return status(ModelSpec(name))

    @router.get("/v1/models/{name}/versions/{version}", summary="Whether a version is loaded", responses=errors)
    async def status_version(name: Name, version: Version) -> JSONResponse:
        return status(ModelSpec(name, version))

    @router.get("/v1/models/{name}/metadata", summary="Signatures of the model", responses=errors)
    async def metadata_current(name: Name) -> JSONResponse:
        return metadata(ModelSpec(name))

    @router.get("/v1/models/{name}/versions/{version}/metadata", summary="Signatures of a version", responses=errors)
    async def metadata_version(name: Name, version: Version) -> JSONResponse:
        return metadata(ModelSpec(name, version))

    return router


def _refuse(refusal: Refusal) -> JSONResponse:
    status = _STATUS.get(refusal.status, 500)
    return JSONResponse({"error": refusal.message}, status, {"Retry-After": "1"} if status in (429, 503) else None)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        content = _load(body)
    except (ValueError, RecursionError) as error:
        raise Refusal("INVALID_ARGUMENT", f"JSON Parse error: {str(error)[:200]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("signature_name", ""), str):
        raise Refusal("INVALID_ARGUMENT", "Expected a JSON object whose `signature_name` is a string")
    return content


def _load(body: bytes) -> Any:
    """Decode JSON without collections of garbage, which find none: millions of small lists take a ninth of the time."""
    gc.disable()
    try:
        return json.loads(body)
    finally:
        gc.enable()


def _values(content: dict[str, Any], name: str) -> tuple[bool, Any]:
    """Return whether the request has rows, and the nested lists of the only input."""
    if ("instances" in content) == ("inputs" in content):
        raise Refusal("INVALID_ARGUMENT", "Expected exactly one of 'instances' and 'inputs' in the JSON object")
    if "inputs" in content:
        columns = content["inputs"]
        return False, _only(columns, name) if _is_named(columns) else columns
    rows = content["instances"]
    if not isinstance(rows, list):
        raise Refusal("INVALID_ARGUMENT", "Expected a list as 'instances'")
    return True, [_only(row, name) if _is_named(row) else row for row in rows]


def _check_rows(values: Any, most: int) -> None:
    """Refuse too many rows before their values are looked at."""
    if isinstance(values, list) and len(values) > most:
        raise Refusal("INVALID_ARGUMENT", f"Expected at most {most} rows in one request. Received: {len(values)}")


def _is_named(value: Any) -> bool:
    """Return whether a value is an object of inputs by name, not one of base64."""
    return isinstance(value, dict) and set(value) != {"b64"}


def _only(values: dict[str, Any], name: str) -> Any:
    if set(values) != {name}:
        raise Refusal("INVALID_ARGUMENT", f"Expected the input {name}. Received: {', '.join(sorted(values))[:200]}")
    return values[name]


def _array(name: str, info: Any, values: Any) -> np.ndarray:
    """Return the array of an input from nested lists, with the type of the signature."""
    import tensorflow as tf

    dtype = tf.as_dtype(info.dtype)
    try:
        if dtype == tf.string:
            if not isinstance(values, list):
                raise ValueError("one value instead of a list")
            return np.array([*map(_bytes, values), None], object)[:-1]  # None: no array of single bytes
        array = np.array(values)
        if isinstance(values, list) and not values:
            array = array.reshape([0, *(dim.size for dim in info.tensor_shape.dim[1:])])
        elif array.dtype.kind not in "iuf" or (dtype.is_integer and array.dtype.kind == "f"):
            raise ValueError("values that are not numbers of this type")
        elif dtype.is_integer and not dtype.min <= array.min() <= array.max() <= dtype.max:
            raise ValueError("numbers out of range")
        with np.errstate(over="ignore"):
            return array.astype(dtype.as_numpy_dtype)
    except (ValueError, TypeError, RecursionError, OverflowError, UsageError) as error:
        raise Refusal("INVALID_ARGUMENT", f"Expected {dtype.name} as {name}. Received: {str(error)[:200]}") from error


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"base64 that cannot be decoded: {error}") from error
    raise ValueError('a value that is neither a string nor {"b64": ..}')
