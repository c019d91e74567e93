"""Services of tiny releases, called in this process."""

import shutil
from contextlib import contextmanager

import pytest
from releases import CALIBRATION, draw_images, publish_tiny
from starlette.testclient import TestClient

from anchorage_pipeline.serving.http.app import create_app
from anchorage_pipeline.serving.service import Service
from anchorage_pipeline.serving.settings import ServeSettings

KEY = "a key of the tests"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="session")
def images():
    return draw_images()


@pytest.fixture(scope="session")
def published(tmp_path_factory, images):
    """A folder with two releases of the same images, of two models; the second is current."""
    folder = tmp_path_factory.mktemp("published")
    for gain in (1.0, 2.0):
        publish_tiny(folder, images, gain=gain, calibration=CALIBRATION, data_root=folder / "data")
    return folder / "releases"


@pytest.fixture
def releases(published, tmp_path):
    """A copy of this folder that a test may change."""
    return shutil.copytree(published, tmp_path / "releases")


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


@pytest.fixture(scope="session")
def shared(published, tmp_path_factory):
    """A service that no test writes to or switches."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/items.sqlite"
    with running(published, store=store) as client:
        yield client


@pytest.fixture
def client(releases):
    """A service of the test's own."""
    with running(releases, watch_seconds=0.05, follow_seconds=0.05) as client:
        yield client
