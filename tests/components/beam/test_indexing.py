"""Shards of an index, built by Beam: together they find what exact search of all rows finds."""

import numpy as np
import pytest

from anchorage.errors import DataError
from anchorage.retrieval.sharded import load_shards
from anchorage.retrieval.table import Embeddings, read_ids, write_table
from anchorage_components.beam.indexing import build_shards


def table_of(rows, start, role="both"):
    vectors = np.random.default_rng(start).normal(size=(rows, 8)).astype("float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.array([f"{start + row:04}" for row in range(rows)], object)
    texts = (ids, np.full(rows, "", object), np.full(rows, role, object), np.full(rows, "test", object))
    return Embeddings(*texts, vectors)


def test_shards_together_find_the_exact_neighbors(tmp_path):
    parts = [table_of(50, 0), table_of(30, 50), table_of(5, 80, role="query"), table_of(20, 85)]
    (tmp_path / "table").mkdir()
    for number, part in enumerate(parts):
        write_table(tmp_path / f"table/vectors-{number}.parquet", part, {"model_fingerprint": "f" * 64})
    assert build_shards(tmp_path / "table", tmp_path / "index", 33) == 3
    index = load_shards(tmp_path / "index")
    gallery = [part for part in parts if part.roles[0] != "query"]
    vectors, ids = np.concatenate([part.vectors for part in gallery]), np.concatenate([part.ids for part in gallery])
    shards = [read_ids(tmp_path / f"index/shard-{number:02}/ids.parquet")["id"] for number in range(3)]
    assert np.concatenate(shards).tolist() == ids.tolist()
    queries = parts[2].vectors
    found, similarities = index.search(queries, 4)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :4]
    assert found.tolist() == exact.tolist()
    np.testing.assert_allclose(similarities, np.take_along_axis(queries @ vectors.T, exact, axis=1), atol=1e-6)


def test_a_table_without_a_gallery_has_no_index(tmp_path):
    write_table(tmp_path / "table.parquet", table_of(3, 0, role="query"))
    with pytest.raises(DataError, match="E_INDEX_EMPTY"):
        build_shards(tmp_path / "table.parquet", tmp_path / "index", 10)
