"""Reading and writing of items over HTTP."""

import io
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response

from anchorage.data.images import decode_checked
from anchorage.data.intake import read_file
from anchorage.data.tables import PATH
from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.items import Item, ItemFault
from anchorage.retrieval.filters import Filter
from anchorage_pipeline.serving import writing
from anchorage_pipeline.serving.deployment import Deployment, image_file
from anchorage_pipeline.serving.http import bodies
from anchorage_pipeline.serving.http.access import key_check
from anchorage_pipeline.serving.http.problems import Fault, RequestError, field_errors, responses
from anchorage_pipeline.serving.http.schemas import (
    AttributesAnswer,
    BatchBody,
    ItemAnswer,
    ItemBody,
    ItemsAnswer,
    Text,
    WriteAnswer,
)
from anchorage_pipeline.serving.http.search import numbers
from anchorage_pipeline.serving.service import Service

_SIDE = 512  # pixels of a picture's longer side
_SHOWN = 100  # most items, and most values of an attribute, in one answer
_ATTRIBUTES = TypeAdapter(dict[Text, Text])
Id = Annotated[str, Path(min_length=1, max_length=1024, description="Id of an item; may contain slashes.")]


def items_router(service: Service) -> APIRouter:
    """Return the routes of items."""
    router = APIRouter(tags=["items"])
    limits = service.settings.limits
    key = Depends(key_check(service.settings))
    write_statuses = responses(400, 401, 403, 404, 409, 413, 415, 429)

    @router.get("/v1/items", summary="The first items, those of a label, or some at random", responses=responses(429))
    async def list_items(
        label: Annotated[str | None, Query(max_length=1024)] = None,
        seed: Annotated[int | None, Query(ge=0, lt=2**32, description="To draw from all items.")] = None,
        limit: Annotated[int, Query(ge=1, le=_SHOWN)] = 20,
    ) -> ItemsAnswer:
        if label is not None and seed is not None:
            raise RequestError("E_REQUEST_FIELDS", "Expected `label` or `seed`. Received: both", [])
        async with service.reading() as deployment:
            items = await service.threads.run(service.threads.work, _some, deployment, label, seed, limit)
            shown = [ItemAnswer.model_validate(_shown(service, deployment, item)) for item in items]
            return ItemsAnswer(items=shown, rows=deployment.live.rows)

    @router.get("/v1/attributes", summary="Attributes and their most frequent values", responses=responses(429))
    async def attributes(limit: Annotated[int, Query(ge=1, le=_SHOWN)] = 20) -> AttributesAnswer:
        async with service.reading() as deployment:
            found = await service.threads.run(service.threads.work, deployment.live.attribute_values, limit)
            if deployment.engine.picture_paths:
                found.pop(PATH, None)  # every item has its own
        values = {name: [{"value": value, "count": count} for value, count in each] for name, each in found.items()}
        return AttributesAnswer.model_validate({"attributes": values})

    @router.post(
        "/v1/items:batch",
        summary="Put and delete items, all or none of them",
        dependencies=[key],
        response_model=WriteAnswer,
        responses=write_statuses,
        openapi_extra=_json_body("BatchBody"),
    )
    async def write_batch(request: Request) -> JSONResponse:
        if bodies.media_type(request) != "application/json":
            raise UsageError("E_BODY_KIND", "Expected application/json as Content-Type. Received: another one")
        service.admission.check()
        body = bodies.parse(BatchBody, await bodies.read_body(request, limits.body_bytes))
        count = len(body.put) + len(body.delete)
        if count > limits.items:
            raise UsageError("E_BATCH_TOO_LARGE", f"Expected at most {limits.items} items. Received: {count}")
        async with service.admitted(max(1, min(len(body.put), limits.pending // 2))):
            return await _write(service, [_put(each.id, each) for each in body.put], body.delete)

    @router.get(
        "/v1/images/{id:path}",
        summary="The picture of an item, reduced",
        response_class=Response,
        responses={**responses(404, 413, 429), 200: {"content": {"image/jpeg": {"schema": bodies.BINARY}}}},
    )
    async def image(id: Id) -> Response:
        async with service.reading() as deployment:
            content = await service.threads.run(service.threads.work, _thumbnail, service, deployment, id)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})

    @router.get("/v1/items/{id:path}", summary="An item", responses=responses(404, 429))
    async def read_item(id: Id) -> ItemAnswer:
        async with service.reading() as deployment:
            item = await service.threads.run(service.threads.work, _find, service, deployment, id)
            return ItemAnswer.model_validate(_shown(service, deployment, item))

    @router.put(
        "/v1/items/{id:path}",
        summary="Add or change an item; what is not given stays as it is",
        dependencies=[key],
        response_model=WriteAnswer,
        responses=write_statuses,
        openapi_extra=bodies.request_body(ItemBody),
    )
    async def put_item(
        request: Request,
        id: Id,
        label: Annotated[str | None, Query(max_length=1024)] = None,
        attributes: Annotated[str | None, Query(description="Text values by name, as JSON.")] = None,
    ) -> JSONResponse:
        service.admission.check()
        known = {"label": label, "attributes": _attributes(attributes)}
        body, image = ItemBody.model_validate(known), None
        if bodies.media_type(request) or request.headers.get("content-length", "0") != "0":
            content, is_json = await bodies.read_content(request, limits.body_bytes)
            if is_json:
                given = bodies.parse(ItemBody, content).model_dump(exclude_none=True)
                body = ItemBody.model_validate({**known, **given})
            else:
                image = content
        async with service.admitted():
            return await _write_one(service, [_put(id, body, image)], [])

    @router.delete(
        "/v1/items/{id:path}",
        summary="Delete an item",
        dependencies=[key],
        response_model=WriteAnswer,
        responses=write_statuses,
    )
    async def delete_item(id: Id) -> JSONResponse:
        async with service.admitted():
            return await _write_one(service, [], [id])

    return router


def _some(deployment: Deployment, label: str | None, seed: int | None, limit: int) -> list[Item]:
    """Return the first items, those of a label, or some that are drawn with a seed."""
    if seed is not None:
        return deployment.live.sample(limit, seed)
    where = None if label is None else Filter(labels=frozenset([label]))
    return list(islice(deployment.live.items(where), limit))


def _json_body(model: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _attributes(text: str | None) -> dict[str, str] | None:
    try:
        return None if text is None else _ATTRIBUTES.validate_json(text)
    except ValidationError as error:
        raise field_errors(error) from error


def _put(id: str, body: ItemBody, image: bytes | None = None) -> writing.Put:
    fault: AnchorageError | None = None
    if image is None and body.image is not None:
        try:
            image = bodies.decode_image(body.image)
        except AnchorageError as error:
            fault = error
    if image is not None and body.vector is not None:
        fault = UsageError("E_REQUEST_FIELDS", "Expected an image or a vector. Received: both")
    vector = None if body.vector is None else numbers(body.vector)
    return writing.Put(id, body.label, body.attributes, image, vector, fault)


async def _write(service: Service, puts: list[writing.Put], deletes: list[str]) -> JSONResponse:
    try:
        written = await writing.write(service, puts, deletes)
    except writing.ItemsRefusedError as error:
        raise RequestError(error.code, error.message, [_fault(each) for each in error.items]) from error
    content = {"change": written.change, "put": len(puts), "deleted": len(deletes)}
    return JSONResponse({**content, "release": written.release._asdict()})


async def _write_one(service: Service, puts: list[writing.Put], deletes: list[str]) -> JSONResponse:
    """Write one item; its first fault is the error."""
    try:
        return await _write(service, puts, deletes)
    except RequestError as error:
        first = error.faults[0]
        raise DataError(first.code, first.message) from error


def _fault(fault: ItemFault) -> Fault:
    return Fault(at=f"items.{fault.place}", code=fault.code, message=fault.message, id=fault.id[:200])


def _find(service: Service, deployment: Deployment, id: str) -> Item:
    item = deployment.live.item(id)
    if item is None and id in deployment.follower.left_out:
        item = service.releases.store.get(id)
    if item is None:
        raise UsageError("E_ITEM_UNKNOWN", f"Expected the id of an item. Received: {id[:200]!r}")
    return item


def _shown(service: Service, deployment: Deployment, item: Item) -> dict[str, Any]:
    path = f"/v1/images/{quote(item.id, safe='')}" if deployment.has_pictures else None
    searchable = item.id not in deployment.follower.left_out
    return {
        "id": item.id,
        "label": item.label,
        "attributes": dict(item.attributes),
        "searchable": searchable,
        "image": path,
    }


def _thumbnail(service: Service, deployment: Deployment, id: str) -> bytes:
    """Return the picture of an item as a small JPEG: the stored one, or that of the release's data."""
    from PIL import Image

    item = _find(service, deployment, id)
    stored = service.releases.store.get(item.id)
    data = stored.image if stored is not None else None
    unchanged = stored is None or stored.pixels == deployment.published_pixels(item.id)
    if data is None and unchanged and (file := image_file(deployment.engine, item.id)) is not None:
        data, fault = read_file(file)
        if fault:
            raise UsageError("E_ITEM_NO_IMAGE", "Expected an item with a picture. Received: one that cannot be read")
    if data is None:
        raise UsageError("E_ITEM_NO_IMAGE", f"Expected an item with a picture. Received: {item.id[:200]!r}")
    limits = service.settings.limits
    pixels, fault = decode_checked(data, limits.image_bytes, limits.image_pixels)
    if pixels is None or fault:
        raise UsageError("E_ITEM_NO_IMAGE", f"Expected a readable picture. Received: {fault.message if fault else ''}")
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
