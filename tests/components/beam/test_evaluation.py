"""The same ids and numbers from shards as from one table in memory, ties, roles and all."""

import json

import numpy as np
import pyarrow.parquet as parquet
import pytest

from anchorage.errors import DataError, UsageError
from anchorage.retrieval.metrics import evaluate_retrieval
from anchorage.retrieval.table import Embeddings, read_table, write_table
from anchorage_components.beam.evaluation import evaluate_at_scale

NAMES = ("recall@1", "recall@5", "precision@3", "ndcg@10", "map@r", "r_precision", "map", "mrr")


def make_table(rows=420, classes=30, coarse=False, roles=("query", "gallery", "both"), seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, classes, rows)
    vectors = rng.normal(size=(classes, 6))[codes] + 0.8 * rng.normal(size=(rows, 6))
    vectors = np.sign(vectors) / np.sqrt(6) if coarse else vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = ([f"image {row:04d}" for row in rng.permutation(rows)], [f"class {code:02d}" for code in codes])
    columns = [*texts, rng.choice(roles, rows).tolist(), ["test"] * rows]
    return Embeddings(*(np.array(column, object) for column in columns), vectors.astype("float32"))


def plant(folder, table, shards=4):
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(table)), shards)):
        write_table(folder / f"vectors-{number}.parquet", table.select(rows))
    return folder


@pytest.mark.parametrize("coarse", [False, True])
def test_same_ids_and_metrics_as_in_memory(tmp_path, coarse, monkeypatch):
    monkeypatch.setattr("anchorage_components.beam.evaluation._BLOCK", 32)
    folder = plant(tmp_path / "table", make_table(coarse=coarse))
    found = evaluate_at_scale(folder, tmp_path / "out", metrics=NAMES, keep_neighbors=7)
    table = read_table(folder)
    expected = evaluate_retrieval(table.vectors, table.labels, table.roles, NAMES, keep_neighbors=7)
    assert found["values"] == pytest.approx(expected.values, abs=1e-9)
    assert (found["queries"], found["skipped"]) == (expected.num_queries, expected.num_skipped)
    assert found["gallery"] == expected.num_gallery
    result = parquet.read_table(tmp_path / "out" / "neighbors.parquet")
    ids: dict = {}
    for query, id_ in zip(result["query"].to_pylist(), result["id"].to_pylist(), strict=True):
        ids.setdefault(query, []).append(id_)
    for row, neighbors in zip(expected.query_rows, expected.neighbor_rows, strict=True):
        assert ids[table.ids[row]] == table.ids[neighbors].tolist()
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == found


def test_a_sample_of_queries_and_a_table_of_their_own(tmp_path):
    table = make_table(roles=("both",))
    folder = plant(tmp_path / "table", table)
    found = evaluate_at_scale(folder, tmp_path / "out", metrics=["recall@1", "map"], sample=50, seed=3)
    assert (found["queries"] + found["skipped"], found["all_queries"]) == (50, 420)
    asked = set(read_table(tmp_path / "out" / "queries.parquet").ids.tolist())
    again = evaluate_at_scale(folder, tmp_path / "again", metrics=["recall@1", "map"], sample=50, seed=3)
    assert again == found
    whole = read_table(folder)
    expected = evaluate_retrieval(whole.vectors, whole.labels, whole.roles, ["recall@1", "map"])
    chosen = np.array([id_ in asked for id_ in whole.ids[expected.query_rows].tolist()])
    for name, value in found["values"].items():
        assert value == pytest.approx(expected.per_query[name][chosen].mean(), abs=1e-9)


def test_queries_of_their_own(tmp_path):
    table, other = make_table(roles=("gallery",)), make_table(rows=60, roles=("query",), seed=1)
    ids = np.array([f"asked {row}" for row in range(60)], object)
    other = Embeddings(ids, other.labels, other.roles, other.splits, other.vectors)
    folder, queries = plant(tmp_path / "table", table), plant(tmp_path / "queries", other, shards=1)
    found = evaluate_at_scale(folder, tmp_path / "out", metrics=["map@r", "map"], queries=queries)
    joined = zip(*((t.vectors, t.labels, t.roles) for t in (read_table(folder), read_table(queries))), strict=True)
    expected = evaluate_retrieval(*(np.concatenate(parts) for parts in joined), ["map@r", "map"])
    assert found["values"] == pytest.approx(expected.values, abs=1e-9)


def test_what_cannot_be_asked(tmp_path):
    folder = plant(tmp_path / "table", make_table(rows=40), shards=2)
    with pytest.raises(UsageError, match=r"E_METRIC_UNKNOWN: .*\['graded_ndcg@5'\]"):
        evaluate_at_scale(folder, tmp_path / "out", metrics=["graded_ndcg@5"])
    with pytest.raises(UsageError, match=r"E_BEAM_OPTION: Expected options of Beam after `--`.*--runer"):
        evaluate_at_scale(folder, tmp_path / "out", metrics=["recall@1"], beam_args=["--runer=DirectRunner"])
    with pytest.raises(UsageError, match=r"E_TOO_FEW_NEIGHBORS: Expected at least 900"):
        evaluate_at_scale(folder, tmp_path / "out", metrics=["recall@900"])
    lonely = plant(tmp_path / "lonely", make_table(rows=30, classes=1).select(np.arange(1)), shards=1)
    with pytest.raises(DataError, match="E_NO_RELEVANT"):
        evaluate_at_scale(lonely, tmp_path / "out", metrics=["recall@1"])
    with pytest.raises(DataError, match="E_TABLE_MISSING"):
        evaluate_at_scale(tmp_path / "nowhere", tmp_path / "out", metrics=["recall@1"])
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="E_TABLE_DAMAGED"):
        evaluate_at_scale(tmp_path / "text.parquet", tmp_path / "out", metrics=["recall@1"])
    table = make_table(rows=20, roles=("both",))
    table.labels[3] = ""
    with pytest.raises(DataError, match=r"E_LABELS.* 1 without one"):
        evaluate_at_scale(plant(tmp_path / "unnamed", table), tmp_path / "out", metrics=["recall@1"])
