"""The web page: the files of the folder `page`, read once when the service starts."""

import mimetypes
from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

from anchorage.errors import UsageError

_INDEX = "index.html"


def page_router() -> APIRouter:
    """Return the routes of the page and its files, which are known by name before any request comes."""
    router = APIRouter(include_in_schema=False)
    folder = resources.files("anchorage_pipeline.serving") / "page"
    files = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}

    @router.get("/")
    async def index() -> Response:
        return _respond(_INDEX)

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        return _respond(name)

    def _respond(name: str) -> Response:
        if name not in files:
            raise UsageError("E_PATH_UNKNOWN", "Expected a file of the page. Received: another name")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(files[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    return router
