"""A table of vectors through the whole pipeline: a head that helps, a release in shards, search by vectors."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from anchorage_pipeline.cli import main

pytestmark = pytest.mark.thorough

CLASSES, EACH, DIM, SIGNAL = 60, 14, 48, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Classes that differ in eight directions only, in noise of all directions: what a linear head can remove."""
    folder = tmp_path_factory.mktemp("vectors")
    random = np.random.default_rng(0)
    means = random.normal(size=(CLASSES, SIGNAL)) @ random.normal(size=(SIGNAL, DIM))
    vectors = np.repeat(means, EACH, axis=0) + 2.5 * random.normal(size=(CLASSES * EACH, DIM))
    write(folder / "shop.parquet", vectors, label=[f"product {number // EACH}" for number in range(len(vectors))])
    write(folder / "queries.parquet", [*vectors[:2], np.full(DIM, np.nan)])
    experiment = 'name = "shop"\nseed = 1\n[data]\npath = "shop.parquet"\n[index]\nshard_rows = 300\n'
    (folder / "shop.toml").write_text(experiment)
    return folder


def write(path, vectors, **columns):
    table = {"id": [f"sku-{number}" for number in range(len(vectors))], **columns}
    parquet.write_table(pa.table({**table, "vector": [list(map(float, row)) for row in vectors]}), path)


@pytest.fixture
def anchorage(folder, monkeypatch, capsys):
    """Runs a command in the folder, and gives its exit status and what it printed."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        capsys.readouterr()
        return main(arguments), capsys.readouterr().out

    return run


def test_a_head_beats_the_given_vectors_and_is_searched_by_vectors(anchorage, folder):
    status, text = anchorage("check", "shop.toml")
    assert status == 0
    assert "840 vectors of 60 classes" in text
    status, text = anchorage("run", "shop.toml")
    assert status == 0, text
    assert "search TABLE --release releases/shop\n" in text
    report = json.loads(next(folder.glob("releases/shop/1/report/report.json")).read_text("utf-8"))
    [baseline] = [entry for entry in report["untrained"] if entry["name"] == "given vectors"]
    assert baseline["metrics"]["map@r"]["difference"] > 0.03
    assert report["verdict"]["state"] == "FIRST"
    index = json.loads((folder / "releases/shop/1/manifest.json").read_text("utf-8"))["index"]
    assert (index["shards"], index["recall"]) == ([280, 280, 280], 1)
    status, text = anchorage("index", "audit", "--queries", "100")
    assert status == 0
    assert "recall@10 1.0000" in text
    status, text = anchorage("search", "queries.parquet", "--neighbors", "3")
    assert status == 0
    first, second = text.split("sku-1\n", 1)
    assert "left out of its results: sku-0" in first
    assert "left out of its results: sku-1" in second
    assert "E_VECTOR_UNUSABLE" in text


def test_plain_training_takes_the_same_vectors(anchorage, folder):
    status, text = anchorage("train", "shop.toml", "--set", "encoder.embedding_size=16", "--set", "training.epochs=2")
    assert status == 0
    assert "given vectors" in text
    metrics = json.loads((folder / "runs/shop/train/metrics.json").read_text("utf-8"))
    assert metrics["queries"] == 420
