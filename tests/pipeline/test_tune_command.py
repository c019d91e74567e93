"""`anchorage tune`: one real search on a few vectors, and what the command prints."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from searches import record, trial

from anchorage.judging.searched import describe_search
from anchorage.tuning.record import read_search
from anchorage_pipeline.cli import main
from anchorage_pipeline.plain_search import format_trials, format_winner

CLASSES, EACH, DIM = 16, 6, 8
FILE = """
name = "shop"
seed = 1
[data]
path = "shop.parquet"
val_share = 0.5
[loss]
name = "contrastive"
params = { neg_margin = %s }
[training]
epochs = 2
steps_per_epoch = 2
sampler = { name = "class_batches", params = { classes = 4, per_class = 2 } }
augmentation = {}
[tuning]
epochs = 1
repeats = 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(CLASSES, DIM)), EACH, axis=0) + random.normal(size=(CLASSES * EACH, DIM))
    table = {
        "id": [f"sku-{row}" for row in range(len(vectors))],
        "label": [f"product {row // EACH}" for row in range(len(vectors))],
        "vector": [list(map(float, row)) for row in vectors],
    }
    parquet.write_table(pa.table(table), tmp_path / "shop.parquet")
    (tmp_path / "shop.toml").write_text(FILE % "{ choices = [0.2, 0.4, 0.6] }")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.thorough
def test_a_search_resumes_and_grows(folder, capsys):
    command = ["tune", "shop.toml", "--oracle", "grid", "--json"]
    assert main([*command, "--trials", "2"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [each["values"] for each in first["trials"]] == [{"loss.params.neg_margin": each} for each in (0.2, 0.4)]
    assert [repeat["seed"] for repeat in first["repeats"]] == [2]
    assert main([*command, "--trials", "3"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["trials"][:2] == first["trials"]  # down to the times: they were not trained again
    assert (len(second["trials"]), second["max_trials"]) == (3, 3)
    searches = folder / "runs/shop/tune/searches"
    assert len(list(searches.iterdir())) == 1
    kept = read_search(folder / "runs/shop/tune/search.json")
    assert (kept.oracle, kept.best) == ("grid", second["best"])
    assert "loss.params.neg_margin" in (folder / "runs/shop/tune/search.html").read_text("utf-8")
    # A trial that another search has stopped is none of this one, nor is its time.
    assert main([*command, "--trials", "1", "--set", "tuning.stop_early=false"]) == 0
    assert len(list(searches.iterdir())) == 2
    assert json.loads(capsys.readouterr().out)["trials"][0]["started"] > second["trials"][2]["started"]


def test_without_ranges_the_error_shows_how_to_write_one(folder, capsys):
    (folder / "shop.toml").write_text(FILE % "0.4")
    assert main(["tune", "shop.toml"]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("anchorage: E_TUNER_SPACE: ")
    assert "margin = { low = 0.05, high = 0.5 }" in stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--oracle", "guessing"], "tuning.oracle"), (["--set", "tuning.repeats=-1"], "tuning.repeats")],
)
def test_mistakes_name_their_key(folder, capsys, arguments, expected):
    assert main(["tune", "shop.toml", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_the_table_has_every_trial_and_the_winner_its_lines():
    search = describe_search(record())
    lines = format_trials(search).splitlines()
    assert lines[0].split() == ["trial", "MAP@R,", "%", "loss", "margin", "learning_rate", "state"]
    assert lines[1].split() == ["0", "20.0", "nca", "-", "0.0001", "completed"]
    assert lines[2].split() == ["1", "40.0", "triplet", "0.25", "0.001", "completed,", "best"]
    assert lines[3].endswith("failed: E_LOSS_NOT_FINITE: <loss> is nan")
    result = format_winner(search)
    assert "trial 1, MAP@R 40.0" in result
    assert "MAP@R 37.0, 95 % interval 25.0 to 49.0, new seeds 2, 3" in result
    assert result.endswith(
        'loss.name = "triplet"\n  loss.params.margin = 0.25\n  training.optimizer.learning_rate = 0.001'
    )
    folds = format_winner(describe_search({**record(), "folds": 5}))
    assert "trial 1, MAP@R 40.0 over 5 folds of the training classes, of 4" in folds
    alone = {**record([trial(0, 0.5)], best=0), "repeats": [], "interval": None}
    assert "repeated" not in format_winner(describe_search(alone))
