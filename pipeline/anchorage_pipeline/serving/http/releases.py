"""Releases over HTTP: what is served, a switch or a rollback, and the report."""

import mimetypes
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from anchorage.errors import UsageError
from anchorage.release import Release, list_releases
from anchorage_pipeline.serving.deployment import Deployment
from anchorage_pipeline.serving.http import bodies
from anchorage_pipeline.serving.http.access import key_check
from anchorage_pipeline.serving.http.problems import responses
from anchorage_pipeline.serving.http.schemas import ReleaseAnswer, ReleaseLine, ReleasesAnswer, VersionBody
from anchorage_pipeline.serving.service import Service

_REPORT = "report/"
_PLACES = ("command", "data_root", "experiment_file")  # facts of the machine that made the release
_FACTS = ("metrics", "intervals", "primary", "split", "evaluation_set", "untrained", "verdict", "previous")
_INDEX = ("kind", "reason", "shards", "recall", "neighbors", "leaves", "leaves_to_search", "reorder")
_SMALL = 4096  # bytes of a body with a version


def releases_router(service: Service) -> APIRouter:
    """Return the routes of releases."""
    router = APIRouter(tags=["releases"])
    key = Depends(key_check(service.settings))
    documented: dict[str, Any] = {
        "dependencies": [key],
        "response_model": ReleaseAnswer,
        "responses": responses(400, 401, 403, 404, 409, 413, 415),
    }
    body = {"schema": {"$ref": "#/components/schemas/VersionBody"}}
    with_version = {"requestBody": {"required": True, "content": {"application/json": body}}}

    @router.get("/v1/release", summary="The served release", responses=responses())
    async def release() -> ReleaseAnswer:
        return ReleaseAnswer.model_validate(_describe(service, service.releases.pick()))

    @router.get("/v1/releases", summary="All releases of the folder", responses=responses(429))
    async def releases() -> ReleasesAnswer:
        async with service.reading() as served:
            return ReleasesAnswer(releases=await service.threads.run(service.threads.work, _list, service, served))

    @router.post(
        "/v1/releases/current",
        summary="Switch to a release, or roll back to one",
        openapi_extra=with_version,
        **documented,
    )
    async def switch(request: Request) -> JSONResponse:
        deployment = await service.releases.switch(await _version(request))
        return JSONResponse(_describe(service, deployment))

    @router.post(
        "/v1/releases/compared",
        summary="Load another release, for searches that name it",
        openapi_extra=with_version,
        **documented,
    )
    async def compare(request: Request) -> JSONResponse:
        deployment = await service.releases.compare(await _version(request))
        return JSONResponse(_describe(service, deployment))

    @router.delete("/v1/releases/compared", summary="Free the compared release", **documented)
    async def forget() -> JSONResponse:
        service.releases.forget()
        return JSONResponse(_describe(service, service.releases.pick()))

    @router.get("/report", include_in_schema=False)
    async def to_report() -> Response:
        return RedirectResponse("/report/")

    @router.get("/report/{name:path}", include_in_schema=False)
    async def report(name: str) -> Response:
        async with service.reading() as deployment:
            return await service.threads.run(service.threads.work, _report_file, deployment, name)

    return router


async def _version(request: Request) -> int:
    if bodies.media_type(request) != "application/json":
        raise UsageError("E_BODY_KIND", "Expected application/json as Content-Type. Received: another one")
    return bodies.parse(VersionBody, await bodies.read_body(request, _SMALL)).version


def _describe(service: Service, deployment: Deployment) -> dict[str, Any]:
    engine, live = deployment.engine, deployment.live
    manifest, facts = engine.release.manifest, engine.release.facts
    experiment = facts.get("experiment", {})
    return {
        "version": deployment.version,
        "fingerprint": deployment.fingerprint,
        "name": experiment.get("name") or facts.get("name"),
        "created": manifest["created"],
        "input": "images" if deployment.takes_pictures else "vectors",
        "pictures": deployment.has_pictures,
        "dimension": live.dimension,
        "rows": live.rows,
        "published_rows": live.index.rows,
        "changed_share": live.changed_share(),
        "left_out": sorted(deployment.follower.left_out)[:100],
        "left_out_count": len(deployment.follower.left_out),
        **{name: facts.get(name) for name in _FACTS},
        "encoder": experiment.get("encoder", {}).get("name"),
        "loss": (experiment.get("loss") or {}).get("name"),  # None leaves it to the recipe
        "index": {name: live.index.facts.get(name) for name in _INDEX},
        "thresholds": {"likely_from": engine.judgement.threshold, "unknown_below": engine.judgement.unknown_below},
        "unknown_rates": engine.judgement.unknown_rates and engine.judgement.unknown_rates._asdict(),
        "probabilities": engine.judgement.probability is not None,
        "text": any(name.startswith("text/") for name in manifest["files"]),
        "doubts": engine.judgement.doubts,
        "manifest": _manifest(engine.release),
        "warnings": service.releases.warnings(),
        "report": "/report/" if f"{_REPORT}report.html" in manifest["files"] else None,
    }


def _manifest(release: Release) -> dict[str, Any]:
    """Return the manifest without what it tells of the machine that made the release."""
    facts = {name: value for name, value in release.facts.items() if name not in _PLACES}
    if "data" in facts.get("experiment", {}):
        data = {name: value for name, value in facts["experiment"]["data"].items() if name != "path"}
        facts["experiment"] = {**facts["experiment"], "data": data}
    return {**release.manifest, "facts": facts}


def _list(service: Service, served: Deployment) -> list[ReleaseLine]:
    loaded = {each.version for each in (service.releases.current, service.releases.compared) if each is not None}
    if not service.releases.follows_pointer:
        release = served.engine.release
        lines = [(release.version, release.manifest["created"], release.facts, "")]
    else:
        found = list_releases(service.settings.release)
        lines = [(each.version, each.created, each.facts, each.fault) for each in found]
    return [
        ReleaseLine(
            version=version,
            created=created,
            current=version == served.version,
            loaded=version in loaded,
            metrics=facts.get("metrics", {}),
            fault="" if not fault else "its files are not as they were published",
        )
        for version, created, facts, fault in lines
    ]


def _report_file(deployment: Deployment, name: str) -> Response:
    """Return a file of the report: a name is looked up in the manifest, and is no path."""
    release = deployment.engine.release
    entry = f"{_REPORT}{name or 'report.html'}"
    if entry not in release.manifest["files"]:
        raise UsageError("E_PATH_UNKNOWN", "Expected a file of the release's report. Received: another name")
    kind = mimetypes.guess_type(entry)[0] or "application/octet-stream"
    return Response((release.path / entry).read_bytes(), media_type=kind)
