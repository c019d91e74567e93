"""`anchorage runs` over the folders that runs leave behind."""

import json

import pytest

from anchorage_pipeline.cli import main


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def report(created, key, state, value):
    return {
        "created": created,
        "experiment": "shop",
        "headline": ["map@r"],
        "metrics": {"recall@1": {"value": value / 2}, "map@r": {"value": value}},
        "verdict": {"state": state, "blessed": state != "HOLD", "reasons": ["Because."]},
        "facts": {"run_key": key, "command": "anchorage run shop.toml", "experiment": {"seed": 3}},
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two runs of one experiment, the second held back, a plain training, and a report that is not complete."""
    monkeypatch.chdir(tmp_path)
    artifacts = tmp_path / "runs/shop/artifacts"
    write(artifacts / "EvaluateRetrieval/report/9/report.json", report("2026-03-01T08:00:00+00:00", "b", "HOLD", 0.4))
    write(artifacts / "EvaluateRetrieval/report/7/report.json", report("2026-02-01T08:00:00+00:00", "a", "FIRST", 0.5))
    write(artifacts / "PublishRelease/release/8/release.json", {"path": str(tmp_path / "releases/shop/1")})
    published = {"created": "2026-02-01T08:00:05+00:00", "facts": {"run_key": "a"}}
    write(tmp_path / "releases/shop/1/manifest.json", published)
    write(tmp_path / "runs/shop/train/metrics.json", {"values": {"recall@1": 0.25}})
    damaged = tmp_path / "runs/other/artifacts/EvaluateRetrieval/report/3/report.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    return tmp_path


def test_runs_are_listed_with_verdict_metrics_and_release(folder, capsys):
    assert main(["runs"]) == 0
    output = capsys.readouterr().out
    assert "2026-02-01 08:00  shop   FIRST   map@r 50.0  release 1\n" in output
    assert "2026-03-01 08:00  shop   HOLD    map@r 40.0\n" in output
    assert "anchorage run shop.toml  runs/shop/artifacts/EvaluateRetrieval/report/7/report.html" in output
    assert "shop   train   recall@1 25.0\n" in output
    assert "other  run     cannot be read: JSONDecodeError" in output


def test_runs_as_json_have_settings_and_all_metrics(folder, capsys):
    assert main(["runs", "runs/shop", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["kind"], run["verdict"]) for run in runs[:2]] == [("run", "FIRST"), ("run", "HOLD")]
    assert runs[0]["metrics"] == {"map@r": 0.5, "recall@1": 0.25}
    assert runs[0]["settings"] == {"seed": 3}
    assert [run["release"] for run in runs] == [str(folder / "releases/shop/1"), None, None]


def test_a_folder_without_runs_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 2
    assert "E_NO_RUN: Expected runs in runs. Found none" in capsys.readouterr().err
