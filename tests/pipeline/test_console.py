"""Results, progress and JSON: which stream each is written to."""

import json
from pathlib import Path

import pytest

from anchorage.errors import DataError
from anchorage_pipeline.cli import main
from anchorage_pipeline.console import answer, console, progress


def command():
    with progress():
        print("at work")
    answer({"value": float("nan"), "file": Path("a/b"), "rows": [(1, 0.5)]})
    print("result 1")


@pytest.mark.parametrize(
    ("as_json", "quiet", "out", "err"),
    [
        (False, False, "at work\nresult 1\n", ""),
        (False, True, "result 1\n", ""),
        (True, False, {"value": None, "file": "a/b", "rows": [[1, 0.5]]}, "at work\n"),
        (True, True, {"value": None, "file": "a/b", "rows": [[1, 0.5]]}, ""),
    ],
)
def test_results_and_progress_go_to_separate_streams(capsys, as_json, quiet, out, err):
    with console(as_json=as_json, quiet=quiet):
        command()
    shown = capsys.readouterr()
    assert (json.loads(shown.out) if as_json else shown.out) == out
    assert shown.err == err


def test_an_error_restores_the_streams(capsys):
    with pytest.raises(DataError), console(as_json=True), progress():
        raise DataError("E_SPLIT_EMPTY", "no images")
    command()
    assert capsys.readouterr().out == "at work\nresult 1\n"


def test_losses_as_json(capsys):
    assert main(["losses", "--json"]) == 0
    losses = {loss["name"]: loss for loss in json.loads(capsys.readouterr().out)}
    assert losses["contrastive"]["parameters"]["neg_margin"] == 1.0
    assert losses["arcface"]["required"] == ["num_classes"]
    assert losses["arcface"]["aliases"] == {"subcenter_arcface": {"sub_centers": 3}}
    assert main(["losses", "circle", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == {"m": 0.4, "gamma": 80.0, "reducer": "avg_non_zero"}


def test_check_as_json(tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    file = tmp_path / "toy.toml"
    file.write_text('name = "toy"\n[data]\npath = "images"\n[loss]\nname = "contrastive"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anchorage_pipeline.inspection.inspect_data", lambda experiment: ["data     20 images"])
    assert main(["check", "toy.toml", "--json", "--set", "loss.params.neg_margin={ low = 0.1, high = 0.5 }"]) == 0
    result = json.loads(capsys.readouterr().out)
    [margin] = result["ranges"]
    assert {key: value for key, value in margin.items() if value is not None} == {
        "path": "loss.params.neg_margin",
        "low": 0.1,
        "high": 0.5,
        "sampling": "linear",
    }
    assert result["grid_points"] == 5
    assert result["experiment"]["name"] == "toy"
    assert result["data"] == {"data": "20 images"}
    assert main(["check", "toy.toml", "--json", "--set", "loss.params.marge=1"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "loss.params.marge" in shown.err
