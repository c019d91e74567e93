"""`anchorage index`: an audit of a release and the items beside it, and an index of a table."""

import json

import numpy as np
import pytest
from vector_releases import publish_vectors, unit_vectors

from anchorage.items import Item
from anchorage.release.items import ItemStore, default_store
from anchorage.retrieval.index import load_index, load_vectors, search
from anchorage.retrieval.table import Embeddings, read_ids, write_table
from anchorage_pipeline.cli import main

VECTORS = unit_vectors(40)


@pytest.fixture
def folder(tmp_path):
    publish_vectors(tmp_path, VECTORS)
    return tmp_path / "releases"


def audit(folder, *more):
    return main(["index", "audit", "--release", str(folder), "--json", *more])


def test_a_release_alone(folder, capsys):
    assert audit(folder, "--queries", "25", "--neighbors", "5") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["recall"], found["queries"], found["neighbors"], found["rows"]) == (1, 25, 5, 40)
    assert (found["mismatches"], found["left_out"], found["change"], found["min_recall"]) == ([], [], 0, 0.9)
    assert list(folder.glob("items*")) == []


def test_items_added_since_belong_to_it(folder, capsys):
    store = ItemStore(default_store(folder))
    fingerprint = json.loads((folder / "1/manifest.json").read_text())["model_fingerprint"]
    store.write([
        Item("new", vector=VECTORS[0], fingerprint=fingerprint),
        Item("of another model", vector=VECTORS[0], fingerprint="other"),
        Item("item 3 ü", deleted=True),
    ])  # fmt: skip
    assert audit(folder) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["recall"], found["queries"], found["rows"], found["change"]) == (1, 40, 40, 3)
    assert found["left_out"] == ["of another model"]
    assert found["store"] == default_store(folder)


def test_a_store_that_is_not_there_is_not_created(folder, tmp_path, capsys):
    assert audit(folder, "--store", f"sqlite:///{tmp_path}/none.sqlite") == 2
    assert "E_STORE_URL" in capsys.readouterr().err
    assert not (tmp_path / "none.sqlite").exists()


def test_an_index_that_serves_other_rows_fails_with_status_5(folder, capsys, monkeypatch):
    monkeypatch.setattr("anchorage.serving.follower.load_vectors", lambda folder: np.roll(VECTORS, 1, axis=0))
    assert main(["index", "audit", "--release", str(folder)]) == 5
    output = capsys.readouterr()
    assert "E_INDEX_RECALL" in output.err
    assert "misses item" in output.out


def write(path, rows, fingerprint="f" * 64):
    texts = [np.array([f"{name}{row}" for row in rows], object) for name in ("id ", "label ")]
    roles, splits = (np.full(len(rows), text, object) for text in ("both", ""))
    facts = {"model_fingerprint": fingerprint} if fingerprint else None
    write_table(path, Embeddings(*texts, roles, splits, VECTORS[rows]), facts)


def build(folder, *more):
    table, output = str(folder / "table"), str(folder / "catalogue/index")
    return main(["index", "build", table, "--output", output, "--json", "--neighbors", "3", *more])


@pytest.fixture
def table(tmp_path):
    """A folder of 40 embeddings in two files."""
    (tmp_path / "table").mkdir()
    for number, rows in enumerate((range(15), range(15, 40))):
        write(tmp_path / f"table/vectors-{number}.parquet", np.array(rows))
    return tmp_path


@pytest.mark.parametrize(
    ("more", "shards"), [([], [40]), (["--shard-rows", "15", "--", "--runner=FnApiRunner"], [13, 13, 14])]
)
def test_an_index_of_a_table(table, capsys, more, shards):
    assert build(table, *more) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["shards"], facts["recall"], facts["model_fingerprint"]) == (40, shards, 1, "f" * 64)
    folder = table / "catalogue/index"
    assert [path.name for path in folder.parent.iterdir()] == ["index"]
    assert read_ids(folder / "ids.parquet")["id"].tolist() == [f"id {row}" for row in range(40)]
    found, _ = search(load_index(folder), VECTORS[:5], 7)
    assert found.tolist() == np.argsort(-(VECTORS[:5] @ VECTORS.T), axis=1)[:, :7].tolist()
    np.testing.assert_array_equal(load_vectors(folder), VECTORS)
    assert build(table) == 2
    assert "E_FOLDER_NOT_EMPTY" in capsys.readouterr().err


def test_tables_that_cannot_be_indexed(table, capsys):
    assert build(table, "--", "--runer=FnApiRunner") == 2
    assert "E_BEAM_OPTION" in capsys.readouterr().err
    write(table / "table/vectors-1.parquet", np.arange(15, 40), "other")
    assert build(table) == 3
    assert "E_RELEASE_MIXED: Expected embeddings of one model" in capsys.readouterr().err
    (table / "table/vectors-1.parquet").write_bytes(b"none")
    assert build(table) == 3
    assert "E_TABLE_DAMAGED" in capsys.readouterr().err
    assert not (table / "catalogue").exists()
