"""Reading of request bodies under limits: images as they are, in multipart forms, or in JSON."""

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from anchorage.errors import UsageError
from anchorage.retrieval.filters import Filter
from anchorage_pipeline.serving.http.problems import field_errors
from anchorage_pipeline.serving.http.schemas import FilterBody

BINARY = {"type": "string", "format": "binary"}
_KINDS = "image/*, multipart/form-data with the field `image`, or application/json"
_PARTS = 100_000  # objects, lists and fields of a body: more than any batch has; millions take many seconds
Body = TypeVar("Body", bound=BaseModel)


def media_type(request: Request) -> str:
    """Return the media type of the body in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, most: int) -> bytes:
    """Read the body.

    Raises:
        UsageError: `E_BODY_TOO_LARGE`; the rest of the body is not read.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise _too_large(most, announced)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _too_large(most, f"more than {len(body)}")
    return bytes(body)


async def read_content(request: Request, most: int) -> tuple[bytes, bool]:
    """Read a body that is an image, a form with an image, or JSON.

    Returns:
        The bytes of the image or of the JSON text, and whether it is JSON.

    Raises:
        UsageError: `E_BODY_KIND`, `E_BODY_TOO_LARGE`, `E_REQUEST_SYNTAX`, `E_REQUEST_FIELDS`.
    """
    kind = media_type(request)
    if kind.startswith("image/"):
        return await read_body(request, most), False
    if kind == "application/json":
        return await read_body(request, most), True
    if kind == "multipart/form-data":
        return await _image_of_form(request, await read_body(request, most), most), False
    raise UsageError("E_BODY_KIND", f"Expected {_KINDS} as Content-Type. Received: {kind[:80]!r}")


def parse(model: type[Body], text: bytes) -> Body:
    """Read JSON text as a body of this model.

    Raises:
        AnchorageError: `E_REQUEST_SYNTAX`, `E_REQUEST_FIELDS` with its faults.
    """
    _check_parts(text)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise field_errors(error) from error


def has_queries(text: bytes) -> bool:
    """Return whether JSON text is an object with the key `queries`."""
    _check_parts(text)
    try:
        return b'"queries"' in text and "queries" in json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return False  # reported when it is parsed


def _check_parts(text: bytes) -> None:
    parts = sum(map(text.count, (b"{", b"[", b":")))
    if parts > _PARTS:
        raise UsageError(
            "E_REQUEST_FIELDS", f"Expected at most {_PARTS} objects, lists and fields in JSON. Received: {parts}"
        )


def decode_image(text: str) -> bytes:
    """Decode an image in base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("E_REQUEST_SYNTAX", f"Expected an image in base64. Received: {error}") from error


def parse_filter(text: str | None) -> Filter | None:
    """Read a filter from the JSON text of a query parameter."""
    return None if text is None else make_filter(parse(FilterBody, text.encode("utf-8", "replace")))


def make_filter(body: FilterBody | None) -> Filter | None:
    """Return the filter of a body; None for one without conditions."""
    content = {} if body is None else body.model_dump(exclude_none=True)
    return Filter.parse(content) if content else None


def request_body(one: type[BaseModel], *others: type[BaseModel]) -> dict[str, Any]:
    """Document a body that is an image, a form with an image, or JSON of one of these models."""
    schemas: list[Any] = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in (one, *others)]
    image = {"type": "object", "required": ["image"], "properties": {"image": BINARY}}
    content: dict[str, Any] = {kind: {"schema": BINARY} for kind in ("image/jpeg", "image/png", "image/webp")}
    content["multipart/form-data"] = {"schema": image}
    content["application/json"] = {"schema": {"anyOf": schemas} if others else schemas[0]}
    return {"requestBody": {"required": True, "content": content}}


async def _image_of_form(request: Request, body: bytes, most: int) -> bytes:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, chunks(), max_files=1, max_fields=8, max_part_size=most)
    parser.spool_max_size = most + 1  # in memory: an upload never becomes a file
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, AssertionError) as error:
        raise UsageError("E_REQUEST_SYNTAX", f"Expected a form. Received: {str(error)[:200]}") from error
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise UsageError("E_REQUEST_SYNTAX", "Expected a file in the field `image` of the form. Received: none")
    if others := sorted(set(form) - {"image"}):
        raise UsageError(
            "E_REQUEST_FIELDS",
            f"Expected only the field `image` in the form, and the rest as query parameters. Received: {others!r:.200}",
        )
    return await image.read()


def _too_large(most: int, received: str) -> UsageError:
    return UsageError("E_BODY_TOO_LARGE", f"Expected a body of at most {most} bytes. Received: {received}")
