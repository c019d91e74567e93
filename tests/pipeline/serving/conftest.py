"""Releases to serve, and services of them."""

import shutil
from urllib.parse import urlsplit

import pytest
from pages import Site, Visit, browser  # noqa: F401 - a fixture
from releases import CALIBRATION, draw_images, publish_tiny
from services import KEY, running


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


@pytest.fixture(scope="module")
def site(published, tmp_path_factory):
    """The page of both releases, for a module: its tests leave items and the current release as they were."""
    releases = shutil.copytree(published, tmp_path_factory.mktemp("page") / "releases")
    with Site(releases, api_key=KEY) as site:
        yield site


@pytest.fixture
def visit(browser, site):  # noqa: F811
    """A tab of this page; afterwards nothing may have gone wrong in it, and no other host was asked."""
    visit = Visit(browser, site.url, viewport={"width": 1280, "height": 900})
    yield visit
    visit.context.close()
    assert visit.errors == []
    assert visit.hosts == {urlsplit(site.url).netloc}
