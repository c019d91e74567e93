"""Health, readiness and metrics over HTTP."""

from fastapi import APIRouter
from starlette.responses import Response

from anchorage.errors import ResourceError
from anchorage_pipeline.serving.http.problems import responses
from anchorage_pipeline.serving.http.schemas import StateAnswer
from anchorage_pipeline.serving.service import Service


def health_router(service: Service) -> APIRouter:
    """Return the routes that orchestrators and monitoring call."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="Whether the process answers", responses=responses())
    async def health() -> StateAnswer:
        return StateAnswer(status="ok")

    @router.get("/readyz", summary="Whether searches are answered: after the warm-up", responses=responses())
    async def ready() -> StateAnswer:
        if not service.ready:
            raise ResourceError(
                "E_NOT_READY", "Expected a release that is loaded. Received: a service that starts or stops"
            )
        return StateAnswer(status="ready")

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={**responses(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        service.measure()
        content, media_type = service.metrics.page()
        return Response(content, media_type=media_type)

    return router
