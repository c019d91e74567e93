"""`anchorage report`: the page of one release, or a page on two."""

import json
import webbrowser

import numpy as np
import pytest
from PIL import Image

from anchorage.judging.judge import judge_candidate
from anchorage.judging.settings import JudgeSettings
from anchorage.judging.two_releases import JUDGED
from anchorage.release import fingerprint_model, publish_release
from anchorage.reporting.report import write_report
from anchorage.retrieval.table import Embeddings, write_table
from anchorage_pipeline.cli import main


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """What would be shown to a person; the command runs beside a folder of releases."""
    pages = []
    monkeypatch.setattr(webbrowser, "open", pages.append)
    monkeypatch.setattr("anchorage.reporting.report.draw_figures", lambda report, folder: {})  # most of the time
    monkeypatch.chdir(tmp_path)
    return pages


def publish(folder, noise):
    """A release whose model and index are bytes that nothing opens; its report is real."""
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(8, 6)), 4, axis=0) + noise * rng.normal(size=(32, 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    columns = (
        [f"{row}.png" for row in range(32)],
        [f"class {row // 4}" for row in range(32)],
        ["both"] * 32,
        ["test"] * 32,
    )
    table = Embeddings(*(np.array(column, object) for column in columns), vectors)
    report = judge_candidate(
        table,
        JudgeSettings(metrics=["recall@1"], max_drop=0.1),
        baseline_facts={"version": None, "reason": "Nothing was published yet."},
        context={"facts": {"experiment": {"name": "toy", "evaluation": {"max_drop": 0.1, "resamples": 200}}}},
    )
    work = folder / f"work-{noise}"
    (work / "model").mkdir(parents=True)
    (work / "model/saved_model.pb").write_bytes(b"graph")
    (work / "index").mkdir()
    facts = {"kind": "brute_force", "model_fingerprint": fingerprint_model(work / "model")}
    (work / "index/index.json").write_text(json.dumps(facts))
    write_report(report, work / "report", lambda ids: dict.fromkeys(ids))
    write_table(work / "report" / JUDGED, table)
    publish_release(
        folder / "releases/toy",
        model_folder=work / "model",
        index_folder=work / "index",
        files={"gallery.parquet": b"ids", "report": work / "report"},
        facts={"data_root": str(folder / "images"), "evaluation_set": report["evaluation_set"]},
    )


def test_one_release_and_two(opened, tmp_path, capsys):
    publish(tmp_path, 1.5)
    publish(tmp_path, 0.3)
    (tmp_path / "images").mkdir()
    for row in range(20):
        Image.new("RGB", (40, 30), (10 * row, 0, 0)).save(tmp_path / f"images/{row}.png")
    assert main(["report"]) == 0
    assert main(["report", "1"]) == 0
    assert [page.partition("/releases/")[2] for page in opened] == [f"toy/{n}/report/report.html" for n in (2, 1)]
    assert main(["report", "1", "2"]) == 0
    assert "verdict  SHIP: MAP@R +" in capsys.readouterr().out
    report = json.loads((tmp_path / "report-1-2/report.json").read_text("utf-8"))
    assert report["baseline"]["version"] == 1
    page = (tmp_path / "report-1-2/report.html").read_text("utf-8")
    assert opened[-1] == (tmp_path / "report-1-2/report.html").as_uri()
    assert 'src="data:image/png' in page
    assert "image<br>missing" in page  # of the images, 12 are gone
    assert main(["report", "2", str(tmp_path / "releases/toy/1"), "--output", "back"]) == 0
    assert json.loads((tmp_path / "back/report.json").read_text("utf-8"))["verdict"]["case"] == "worse"


def test_three_are_too_many(opened, capsys):
    assert main(["report", "1", "2", "3"]) == 2
    assert "E_RELEASE_UNCLEAR: Expected at most two releases. Received: 1 2 3" in capsys.readouterr().err
    assert not opened
