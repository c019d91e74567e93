"""`anchorage index audit` on a release and the items beside it."""

import json

import numpy as np
import pytest
from vector_releases import publish_vectors, unit_vectors

from anchorage.items import Item
from anchorage.release.items import ItemStore, default_store
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


def test_an_index_that_serves_other_rows_fails_with_status_5(folder, capsys, monkeypatch):
    monkeypatch.setattr("anchorage.serving.follower.load_vectors", lambda folder: np.roll(VECTORS, 1, axis=0))
    assert main(["index", "audit", "--release", str(folder)]) == 5
    told = capsys.readouterr()
    assert "E_INDEX_RECALL" in told.err
    assert "misses item" in told.out
