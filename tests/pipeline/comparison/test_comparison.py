"""Whole comparisons on drawn shapes, in real child processes."""

import json
import os
import signal
import threading
import time

import pytest

from anchorage.errors import UsageError
from anchorage_pipeline.cli import main
from anchorage_pipeline.comparison import compare
from anchorage_pipeline.datasets.shapes import draw_shapes

_EXPERIMENT = """
name = "toy"
[data]
path = "shapes"
image_size = 16
test_share = 0.34
[encoder]
name = "small"
embedding_size = 8
params = { widths = [4, 8] }
[loss]
name = "contrastive"
[training]
epochs = 2
steps_per_epoch = 4
sampler = { name = "class_batches", params = { classes = 4, per_class = 2 } }
"""
_COMPARISON = """
name = "tiny"
experiment = "toy.toml"
folds = 3
seeds = [1]
design = "paired"
tune = { "training.optimizer.learning_rate" = [0.001, 0.01] }
[[entries]]
name = "plain"
[[entries]]
name = "bad"
label = "rates too high"
against = "plain"
tune = { "training.optimizer.learning_rate" = [1e30, 1e31] }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_shapes(tmp_path / "shapes", per_class=4)
    (tmp_path / "toy.toml").write_text(_EXPERIMENT)
    (tmp_path / "compare.toml").write_text(_COMPARISON)
    return tmp_path


@pytest.mark.thorough
def test_goes_on_after_it_was_stopped_and_loses_nothing_to_a_failure(folder):
    records, ended = folder / "runs/tiny/records", threading.Event()

    def stop_after_a_record():
        deadline = time.monotonic() + 300
        while not list(records.glob("*.json")) and not ended.wait(0.1) and time.monotonic() < deadline:
            pass
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    watch = threading.Thread(target=stop_after_a_record)
    watch.start()
    status = main(["compare", "compare.toml"])
    ended.set()
    watch.join()
    assert status == 4
    kept = {path: path.read_bytes() for path in records.glob("*.json")}
    assert kept

    outcome = compare("compare.toml", side_by_side=2)

    plain, bad = outcome.rows
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(plain.good) == 1
    assert 0 < plain.values["map@r"].mean <= 1
    assert plain.chosen.candidate is not None
    record = next(iter(plain.good.values()))
    assert not {*record["train"], *record["validation"]} & {*record["judge"]}
    assert record["queries"] == 4 * len(record["judge"])
    assert record["dimension"] == 8
    assert record["cpu_seconds"] > 0
    assert record["memory_peak"] > record["memory_before"] > 0
    assert bad.chosen.values == [None, None]
    table = (folder / "runs/tiny/table.md").read_text()
    assert "| rates too high | failed, see below |" in table
    assert "No values chosen: every trial failed." in table
    assert [path.name for path in (folder / "runs/tiny/stores").glob("*/*")] == ["half"]
    seen = {path: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert sum("E_LOSS_NOT_FINITE" in json.loads(path.read_text()).get("error", "") for path in seen) == 2

    compare("compare.toml")  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in records.glob("*.json")} == seen


def test_unknown_entry(folder):
    with pytest.raises(UsageError, match="E_ENTRY_UNKNOWN"):
        compare("compare.toml", only=["planes"])


def test_unlike_entries_stop_it_before_anything_runs(folder):
    text = _COMPARISON + "[entries.set.encoder]\nembedding_size = 16\n"
    (folder / "compare.toml").write_text(text)
    with pytest.raises(UsageError, match="E_UNLIKE: The entries 'bad' and 'plain' cannot be compared fairly"):
        compare("compare.toml")
    assert not (folder / "runs/tiny/records").exists()


def test_a_wrong_value_to_choose_stops_it_at_once(folder):
    text = _COMPARISON.replace("[0.001, 0.01]", '["fast", 0.01]')
    (folder / "compare.toml").write_text(text)
    with pytest.raises(UsageError, match=r"E_COMPARISON_ENTRY: The entry 'plain'"):
        compare("compare.toml")
    assert not (folder / "runs").exists()
