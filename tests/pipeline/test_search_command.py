"""`anchorage search` with a stand-in for the model and its index."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import anchorage.release
import anchorage.serving.searcher
from anchorage.serving.answers import UnknownRates
from anchorage.serving.searcher import Answer
from anchorage_pipeline.cli import main
from anchorage_pipeline.commands import search as search_command

GALLERY = [f"images/{n}.png" for n in range(30)]


class StandIn:
    """Answers with the first images of a gallery of 30, or of 29 besides the query."""

    threshold, calibration, probability, unknown_below, unknown_rates, doubts = None, {}, None, None, None, ()
    takes_vectors = False
    gallery = None
    index = SimpleNamespace(rows=len(GALLERY))

    def __init__(self, release):
        self.release = release

    def search(self, images, k):
        ids = GALLERY[1:][:k]
        return [Answer(ids, ["a"] * len(ids), [0.5] * len(ids), None, None, None, None, GALLERY[:1]) for _ in images]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with one image; a release stands ready."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "query.png")
    release = SimpleNamespace(facts={"data_root": str(tmp_path)}, version=3, address=str(tmp_path))
    monkeypatch.setattr(anchorage.release, "open_release", lambda path: release)
    monkeypatch.setattr(anchorage.serving.searcher, "Searcher", StandIn)
    monkeypatch.setattr(search_command, "load_tensorflow", lambda: None)
    return tmp_path


def search(*arguments):
    return main(["search", "query.png", "--release", "releases", *arguments])


@pytest.mark.parametrize("picture", ["nowhere/x.png", ".", "query.png/x.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_search(folder, monkeypatch, capsys, picture):
    monkeypatch.setattr(anchorage.serving.searcher, "Searcher", lambda release: pytest.fail("searched"))
    assert search("--picture", picture) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("anchorage: E_PICTURE_PLACE: `--picture` must name a file in an existing folder.")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("query", ["absent.png", "photos"])
def test_what_is_no_image_file_is_refused_before_anything_is_loaded(folder, monkeypatch, capsys, query):
    (folder / "photos").mkdir()
    monkeypatch.setattr(search_command, "load_tensorflow", lambda: pytest.fail("loaded"))
    assert main(["search", query, "--release", "releases"]) == 2
    assert f"E_IMAGE_MISSING: Expected image files. Found nothing at {query}" in capsys.readouterr().err


def test_no_picture_is_drawn_unless_asked_for(folder):
    assert search() == 0
    assert [path.name for path in folder.iterdir()] == ["query.png"]


def test_vectors_with_ids_are_drawn_with_the_pictures_of_their_paths(folder, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr("anchorage.reporting.pictures.draw_sheet", lambda answers, path: drawn.extend(answers))
    facts = {"data_root": str(folder), "experiment": {"data": {"input": "vectors"}}}
    release = SimpleNamespace(facts=facts, version=3, address=str(folder))
    monkeypatch.setattr(anchorage.release, "open_release", lambda path: release)
    gallery = {"id": np.array(GALLERY, object), "attribute/path": np.array(["query.png"] * 2 + [""] * 28, object)}
    monkeypatch.setattr(StandIn, "gallery", gallery)
    table = {"id": ["a", "b", "c"], "vector": [[1.0, 0.0]] * 3, "path": ["red.png", "absent.png", None]}
    (folder / "shop").mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "shop/red.png")
    parquet.write_table(pa.table(table), folder / "shop/queries.parquet")
    assert main(["search", "shop/queries.parquet", "--release", "x", "--picture", "x.png", "--neighbors", "2"]) == 0
    output = capsys.readouterr().out
    assert [line for line in output.splitlines() if not line.startswith(" ")][:3] == ["a", "b", "c"]
    assert "the query vector is in the gallery" in output
    first, second, third = drawn
    assert [neighbor.picture is None for neighbor in first.neighbors] == [False, True]  # images 1 and 2
    np.testing.assert_array_equal(first.picture[0, 0], [255, 0, 0])
    assert second.picture is third.picture is None


def test_results_as_json_are_the_only_output(folder, capsys):
    (folder / "query 2.png").write_bytes((folder / "query.png").read_bytes())
    assert main(["search", "query.png", "query 2.png", "--release", "releases", "--neighbors", "2", "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["version"], [query["image"] for query in result["queries"]]) == (3, ["query.png", "query 2.png"])
    assert result["queries"][0]["left_out"] == ["images/0.png"]
    assert result["queries"][0]["results"] == [
        {"id": f"images/{n}.png", "label": "a", "score": 0.5, "likely": None, "probability": None} for n in (1, 2)
    ]
    assert shown.err == ""


def test_more_neighbors_than_the_gallery_holds_are_noted(folder, capsys):
    assert search("--neighbors", "500") == 0
    shown = capsys.readouterr().out
    assert "the gallery has only 30 items: fewer results than the requested 500" in shown
    assert shown.count(" a ") == 29
    assert search("--neighbors", "29") == 0
    assert "only" not in capsys.readouterr().out


def test_the_sheet_stays_of_a_size_that_fits_in_memory(folder, capsys, monkeypatch):
    monkeypatch.setattr(search_command, "_SHEET_ROWS", 2)
    monkeypatch.setattr(search_command, "_SHEET_COLUMNS", 3)
    drawn = ("--release", "releases", "--picture", "search.png")
    assert main(["search", *["query.png"] * 3, *drawn, "--neighbors", "3"]) == 0
    assert "limited to 2 images" in capsys.readouterr().out
    two_lines = Image.open(folder / "search.png").size
    assert main(["search", *["query.png"] * 2, *drawn, "--neighbors", "3"]) == 0
    assert Image.open(folder / "search.png").size == two_lines
    assert main(["search", *["query.png"] * 2, *drawn, "--neighbors", "9"]) == 0
    assert Image.open(folder / "search.png").size == two_lines


def test_a_query_reported_as_unknown_says_how_often_that_is_wrong(folder, monkeypatch, capsys):
    class Unsure(StandIn):
        unknown_rates = UnknownRates(missing=0.945, present=0.417)

        def search(self, images, k):
            return [answer._replace(unknown=True) for answer in super().search(images, k)]

    monkeypatch.setattr(anchorage.serving.searcher, "Searcher", Unsure)
    assert search() == 0
    printed = capsys.readouterr().out
    assert "unknown: the gallery may lack its class" in printed
    assert "unknown: so are 94 % of the test queries whose class the gallery lacks, and 42 % of others" in printed
    assert search("--json") == 0
    assert json.loads(capsys.readouterr().out)["unknown_rates"] == {"missing": 0.945, "present": 0.417}
