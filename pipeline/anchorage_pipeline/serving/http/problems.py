"""Errors over HTTP: problem documents (RFC 9457) with the project's codes."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from anchorage.errors import AnchorageError, ResourceError
from anchorage_pipeline.serving.batching import OverloadedError
from anchorage_pipeline.serving.disclosure import public_message

MEDIA_TYPE = "application/problem+json"
_SHOWN = 50  # faults in one document
_GONE = 499  # in the metrics, as nginx has it

# Others are 503 if a resource is missing, and else 422: the request is understood, and cannot be met.
STATUS = {
    "E_REQUEST_SYNTAX": 400,
    "E_KEY_WRONG": 401,
    "E_WRITES_DISABLED": 403,
    "E_ITEM_UNKNOWN": 404,
    "E_ITEM_NO_IMAGE": 404,
    "E_PATH_UNKNOWN": 404,
    "E_RELEASE_MISSING": 404,
    "E_METHOD": 405,
    "E_RELEASE_CHANGED": 409,
    "E_RELEASE_DAMAGED": 409,
    "E_RELEASE_MIXED": 409,
    "E_RELEASE_NOT_LOADED": 409,
    "E_RELEASE_SINGLE": 409,
    "E_BODY_TOO_LARGE": 413,
    "E_IMAGE_TOO_LARGE": 413,
    "E_BODY_KIND": 415,
    "E_HOST": 421,
    "E_OVERLOADED": 429,
    "E_BUG": 500,
    "E_DEADLINE": 504,
}


class Fault(BaseModel):
    """One of several faults of a request."""

    at: str = Field(description="Where it is, such as `queries.3.k` or the place of an item in its batch.")
    code: str
    message: str
    id: str | None = Field(default=None, description="Id of the item, for a write.")


class Problem(BaseModel):
    """A problem document, RFC 9457."""

    type: str = Field(description="URN of the kind of problem.")
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable name of the error, as in the list of error codes.")
    instance: str = Field(description="Path of the request.")
    faults: list[Fault] | None = Field(default=None, description="All faults, for a request that has several parts.")


class RequestError(AnchorageError):
    """A request with several faults."""

    exit_status = 2

    def __init__(self, code: str, message: str, faults: list[Fault]):
        super().__init__(code, message)
        self.faults = faults


def status_of(error: AnchorageError) -> int:
    """Return the HTTP status of an error."""
    return STATUS.get(error.code, 503 if isinstance(error, ResourceError) else 422)


def document(error: AnchorageError, instance: str) -> dict[str, Any]:
    """Return the problem document of an error."""
    content = _document(status_of(error), error.code, public_message(error), instance)
    faults = getattr(error, "faults", None)
    if faults:
        content["faults"] = [
            Fault.model_validate(fault, from_attributes=True).model_dump() for fault in faults[:_SHOWN]
        ]
    return content


def respond(error: AnchorageError, instance: str) -> Response:
    """Return the response for an error."""
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(error.retry_seconds)
    if error.code == "E_KEY_WRONG":
        headers["WWW-Authenticate"] = "Bearer"
    if error.code == "E_NOT_READY":
        headers["Retry-After"] = "1"
    return _response(document(error, instance), headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document these statuses, and those that any request can get, as problem documents."""
    documented: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, 421, 422, 500, 503, 504}):
        schema = {"$ref": "#/components/schemas/Problem"}
        documented[status] = {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
    return documented


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""
    app.add_exception_handler(AnchorageError, _anchorage)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _fields)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


def field_errors(error: ValidationError | RequestValidationError) -> RequestError:
    """Return the error for fields of a request that are missing, unknown or out of range."""
    details = _details(error)
    if any(each["type"] == "json_invalid" for each in details):
        return RequestError("E_REQUEST_SYNTAX", f"Expected JSON. Received: {details[0].get('msg', '')[:200]}", [])
    faults = []
    for each in details[:_SHOWN]:
        at = ".".join(str(part) for part in each["loc"])[:200]
        faults.append(Fault(at=at, code="E_REQUEST_FIELDS", message=str(each["msg"])[:200]))
    first = faults[0]
    more = f"; and {len(details) - 1} more" if len(details) > 1 else ""
    return RequestError(
        "E_REQUEST_FIELDS", f"Expected valid fields. Received: {first.at or 'the body'}: {first.message}{more}", faults
    )


def _details(error: ValidationError | RequestValidationError) -> Sequence[Any]:
    if isinstance(error, ValidationError):
        return error.errors(include_url=False, include_context=False, include_input=False)  # which take the most time
    return error.errors()


async def _anchorage(request: Request, error: Exception) -> Response:
    return respond(error, request.url.path) if isinstance(error, AnchorageError) else await _bug(request, error)


async def _fields(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        return await _bug(request, error)
    return respond(field_errors(error), request.url.path)


async def _framework(request: Request, error: Exception) -> Response:
    """Errors of the framework: unknown paths and methods."""
    status = getattr(error, "status_code", 500)
    code, detail = {
        404: ("E_PATH_UNKNOWN", "Expected a path of this service, as listed in /openapi.json. Received: another one"),
        405: ("E_METHOD", f"Expected another method for this path. Received: {request.method}"),
    }.get(status, ("E_REQUEST_SYNTAX", str(getattr(error, "detail", ""))[:200]))
    content = _document(status, code, detail, request.url.path)
    return _response(content, getattr(error, "headers", None) or {})


async def _gone(request: Request, error: Exception) -> Response:
    """The client left before its request was read: nobody reads the answer, and the service has no fault."""
    return Response(status_code=_GONE)


async def _bug(request: Request, error: Exception) -> Response:
    detail = "Expected to answer. Received an internal error, which the log of the service has; please report it"
    return _response(_document(500, "E_BUG", detail, request.url.path))


def _document(status: int, code: str, detail: str, instance: str) -> dict[str, Any]:
    title = HTTPStatus(status).phrase
    kind = f"urn:anchorage:error:{code}"
    return {"type": kind, "title": title, "status": status, "detail": detail, "code": code, "instance": instance}


def _response(content: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(content, content["status"], headers, MEDIA_TYPE)
