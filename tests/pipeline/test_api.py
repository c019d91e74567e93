"""The Python functions of the commands, without a run; `test_whole_run.py` has one."""

from pathlib import Path

import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.retrieval.table import Embeddings, write_table
from anchorage_pipeline import api
from anchorage_pipeline.config import load_experiment

_LEAST = 'name = "toy"\n[data]\npath = "images"\n'


def test_train_takes_a_file_with_overrides_or_an_experiment(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("anchorage_pipeline.preflight.check_parts", lambda experiment: None)
    monkeypatch.setattr(
        "anchorage_pipeline.plain.train_plainly", lambda experiment, output: calls.append((experiment, output)) or {}
    )
    file = tmp_path / "toy.toml"
    file.write_text(_LEAST)
    assert api.train(file, ["seed=4"]) == {}
    assert api.train(load_experiment(file), output="out") == {}
    (first, folder), (second, out) = calls
    assert (first.seed, second.seed, out) == (4, 0, Path("out"))
    assert folder == first.run_folder / "train"
    with pytest.raises(ValueError, match="seed=4"):
        api.train(load_experiment(file), ["seed=4"])


def test_evaluate_gives_metrics(tmp_path):
    vectors = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    columns = (["a", "b", "c", "d", "e", "f"], list("xxyyzz"), ["both"] * 6, ["test"] * 6)
    write_table(tmp_path / "table.parquet", Embeddings(*(np.array(column, object) for column in columns), vectors))
    result = api.evaluate(tmp_path / "table.parquet", tmp_path / "out", ["recall@1"], keep_neighbors=1)
    assert result["values"] == {"recall@1": 1.0}
    assert (result["queries"], result["gallery"]) == (6, 6)


def test_a_missing_release_is_refused(tmp_path):
    for command in (api.open_release, api.report):
        with pytest.raises(UsageError, match="E_RELEASE_MISSING"):
            command(tmp_path / "nowhere")


def test_a_run_is_shown_in_a_line():
    run = api.Run({"recall@1": 0.891}, "FIRST", ("Nothing to compare.",), Path("r.html"), Path("releases/toy/1"), {})
    assert repr(run) == "<Run FIRST: recall@1 89.1 (percent); release releases/toy/1, report r.html>"
