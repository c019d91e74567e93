"""`anchorage evaluate` on tables that were not written by Anchorage."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from anchorage.retrieval.table import read_table
from anchorage_pipeline.commands.evaluate import embedding_table


def test_a_table_of_vectors_becomes_one_of_embeddings(tmp_path, capsys):
    path = tmp_path / "given.parquet"
    vectors = [[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]
    parquet.write_table(pa.table({"class": ["a", "a", "b"], "role": ["probe", "query", ""], "vector": vectors}), path)
    table = read_table(embedding_table(path, tmp_path / "out"))
    assert table.labels.tolist() == ["a", "a"]
    assert table.roles.tolist() == ["both", "query"]
    np.testing.assert_allclose(table.vectors, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)
    assert "row 3: a vector of zeros has no direction" in capsys.readouterr().out


def test_an_embedding_table_is_taken_as_it_is(tmp_path):
    given = tmp_path / "given.npy"
    np.save(given, np.eye(2, dtype="float32"))
    written = embedding_table(given, tmp_path / "out")
    assert embedding_table(written, tmp_path / "again") == written
    assert not (tmp_path / "again").exists()
