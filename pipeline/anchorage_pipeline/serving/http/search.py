"""Searches over HTTP."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from anchorage.errors import AnchorageError, UsageError
from anchorage.retrieval.filters import Filter
from anchorage_pipeline.serving import service as serving
from anchorage_pipeline.serving.http import bodies
from anchorage_pipeline.serving.http.problems import RequestError, document, responses
from anchorage_pipeline.serving.http.schemas import QueriesBody, QueryBody, SearchAnswer, SearchAnswers

_PATH = "/v1/search"


def search_router(service: serving.Service) -> APIRouter:
    """Return the route of searches."""
    router = APIRouter(tags=["search"])
    limits = service.settings.limits

    @router.post(
        _PATH,
        summary="Search the nearest items of one or several queries",
        response_model=SearchAnswer | SearchAnswers,
        responses=responses(400, 404, 409, 413, 415, 429),
        openapi_extra=bodies.request_body(QueryBody, QueriesBody),
    )
    async def search(
        request: Request,
        k: Annotated[int, Query(ge=1, le=limits.k, description="Number of results.")] = 10,
        min_score: Annotated[float | None, Query(allow_inf_nan=False, description="Least similarity.")] = None,
        filter: Annotated[str | None, Query(description="Conditions as JSON, see FilterBody.")] = None,
        release: Annotated[int | None, Query(ge=1, description="Version of another loaded release.")] = None,
    ) -> JSONResponse:
        service.admission.check()
        content, is_json = await bodies.read_content(request, limits.body_bytes)
        where = bodies.parse_filter(filter)
        if is_json and bodies.has_queries(content):
            parsed = bodies.parse(QueriesBody, content)
            if len(parsed.queries) > limits.queries:
                raise _too_many(len(parsed.queries), limits.queries)
            where = bodies.make_filter(parsed.filter) or where
            defaults = (parsed.k or k, where, min_score if parsed.min_score is None else parsed.min_score)
            queries = [_query(each, *defaults, limits.k) for each in parsed.queries]
            return await _answer_all(service, queries, release)
        if is_json:
            query = _query(bodies.parse(QueryBody, content), k, where, min_score, limits.k)
            if isinstance(query, AnchorageError):
                raise query
        else:
            query = serving.Query(image=content, k=k, where=where, min_score=min_score)
        async with service.admitted():
            served, (found,) = await service.search([query], release)
        if isinstance(found, AnchorageError):
            raise found
        return JSONResponse({"release": _release(served), **_answer(found)})

    return router


async def _answer_all(
    service: serving.Service, queries: list[serving.Query | AnchorageError], release: int | None
) -> JSONResponse:
    valid = [query for query in queries if not isinstance(query, AnchorageError)]
    async with service.admitted(len(valid)):
        served, answers = await service.search(valid, release)
    found = iter(answers)
    merged = [query if isinstance(query, AnchorageError) else next(found) for query in queries]
    contents = [
        {"problem": document(each, _PATH)} if isinstance(each, AnchorageError) else _answer(each) for each in merged
    ]
    return JSONResponse({"release": _release(served), "answers": contents})


def _query(
    body: QueryBody, k: int, where: Filter | None, min_score: float | None, most: int
) -> serving.Query | AnchorageError:
    """Return a query, or why it is none."""
    given = [name for name in ("image", "vector", "id", "text") if getattr(body, name) is not None]
    try:
        if len(given) != 1:
            received = ", ".join(given) or "none of them"
            raise RequestError(
                "E_REQUEST_FIELDS", f"Expected one of image, vector, id and text. Received: {received}", []
            )
        k = body.k or k
        if k > most:
            raise UsageError("E_NEIGHBORS", f"Expected `k` of at most {most}. Received: {k}")
        return serving.Query(
            image=None if body.image is None else bodies.decode_image(body.image),
            vector=None if body.vector is None else numbers(body.vector),
            id=body.id,
            text=body.text,
            k=k,
            where=bodies.make_filter(body.filter) or where,
            min_score=min_score if body.min_score is None else body.min_score,
        )
    except AnchorageError as error:
        return error


def numbers(values: list[float]) -> np.ndarray:
    """Return the vector of a body as float32."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)  # too large: infinite, which is refused


def _answer(found: serving.Found) -> dict[str, Any]:
    answer = found.answer
    none = [None] * len(answer.ids)
    columns = (answer.ids, answer.labels, answer.scores, answer.probabilities or none, answer.likely or none)
    keys = ("id", "label", "score", "probability", "likely", "attributes")
    results = [
        dict(zip(keys, row, strict=True)) for row in zip(*columns, answer.attributes or [{}] * len(none), strict=True)
    ]
    left_out = list(answer.left_out)
    return {"results": results, "unknown": answer.unknown, "left_out": left_out, "limited": found.limited}


def _release(served: serving.Served) -> dict[str, Any]:
    return {"version": served.version, "fingerprint": served.fingerprint}


def _too_many(received: int, most: int) -> UsageError:
    return UsageError("E_BATCH_TOO_LARGE", f"Expected at most {most} in one request. Received: {received}")
