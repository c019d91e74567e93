"""The HTTP application: its routes, its OpenAPI document, and what guards it."""

from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from anchorage_pipeline.serving.http import problems, schemas
from anchorage_pipeline.serving.http.guard import Guard
from anchorage_pipeline.serving.http.health import health_router
from anchorage_pipeline.serving.http.items import items_router
from anchorage_pipeline.serving.http.page import page_router
from anchorage_pipeline.serving.http.parameters import known_parameters
from anchorage_pipeline.serving.http.prediction import prediction_router
from anchorage_pipeline.serving.http.releases import releases_router
from anchorage_pipeline.serving.http.search import search_router
from anchorage_pipeline.serving.service import Service

# Bodies that routes read themselves, so that the framework does not know them.
_BODIES = (
    schemas.QueryBody,
    schemas.QueriesBody,
    schemas.ItemBody,
    schemas.BatchBody,
    schemas.VersionBody,
    schemas.FilterBody,
    problems.Problem,
)


def create_app(service: Service) -> Guard:
    """Return the application that serves a service over HTTP."""
    app = FastAPI(
        title="Anchorage",
        version="1",
        description="Search in a release, changes of its gallery, and switches between releases.",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    for router in (search_router, items_router, releases_router):
        app.include_router(router(service), dependencies=[Depends(known_parameters)])
    for router in (health_router, prediction_router):
        app.include_router(router(service))
    app.include_router(page_router())

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return Guard(app, service)


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the bodies that routes read themselves."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    known = document.setdefault("components", {}).setdefault("schemas", {})
    for model in _BODIES:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        known.update(schema.pop("$defs", {}))
        known[model.__name__] = schema
    for name in ("HTTPValidationError", "ValidationError"):
        known.pop(name, None)
    return document
