"""Services of tiny releases, called in this process."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from starlette.testclient import TestClient

from anchorage_pipeline.serving.http.app import create_app
from anchorage_pipeline.serving.service import Service
from anchorage_pipeline.serving.settings import ServeSettings

KEY = "a key of the tests"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


def run_async(coroutine):
    """Run a coroutine in a thread of its own: browser tests before may have left a running loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@contextmanager
def running(releases, **settings):
    """A client of a service that has started; its `service` is the service."""
    service = Service(ServeSettings(release=releases, **{"api_key": KEY, "host": "0.0.0.0", **settings}))
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        client.portal.call(service.start)
        client.service = service
        try:
            yield client
        finally:
            client.portal.call(service.stop)
