"""Releases to serve, and services of them."""

import shutil

import pytest
from pages import browser  # noqa: F401 - a fixture
from releases import CALIBRATION, draw_images, publish_tiny
from services import running


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
