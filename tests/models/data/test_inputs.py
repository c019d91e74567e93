"""Inputs of commands: files, folders and tables, with what their rows say, however much that is."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from anchorage.data.inputs import Input, list_inputs
from anchorage.data.listing import Reject
from anchorage.errors import DataError, UsageError


def test_files_and_folders_are_listed_once(tmp_path):
    for name in ("b.png", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    inputs, rejects = list_inputs([tmp_path / "b.png", tmp_path], vectors=False)
    assert inputs == [Input(f"{tmp_path}/{name}", f"{tmp_path}/{name}") for name in ("b.png", "a.jpg")]
    assert rejects == []
    with pytest.raises(UsageError, match="E_IMAGE_MISSING"):
        list_inputs([tmp_path / "c.png"], vectors=False)


def test_patterns_and_lists_name_images_and_uris(tmp_path):
    for name in ("a.jpg", "deep/er/b.PNG", "deep/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, _ = list_inputs([f"{tmp_path}/**/*"], vectors=False)
    assert [item.path for item in found] == [f"{tmp_path}/a.jpg", f"{tmp_path}/deep/er/b.PNG"]
    (tmp_path / "list.txt").write_text("a.jpg\n\ngs://bucket/cafe\u0301.png\n", encoding="utf-8")
    (tmp_path / "table.csv").write_text("path,label\ngs://bucket/d.png,cat\n")
    found, rejects = list_inputs([tmp_path / "list.txt", tmp_path / "table.csv"], vectors=False)
    assert found == [
        Input(f"{tmp_path}/a.jpg", "a.jpg"),
        Input("gs://bucket/cafe\u0301.png", "gs://bucket/caf\u00e9.png"),
        Input("gs://bucket/d.png", "gs://bucket/d.png", "cat"),
    ]
    assert rejects == []


def test_a_table_of_images_may_have_labels_roles_and_splits(tmp_path):
    table = tmp_path / "list.tsv"
    table.write_text(
        "path\tclass\trole\tsplit\na.png\tcat\tQuery\ttest\nb.png\t\tprobe\tother\n\tcat\t\t\n../c.png\t\t\t\n"
    )
    inputs, rejects = list_inputs([table], vectors=False)
    assert inputs == [
        Input(f"{tmp_path}/a.png", "a.png", "cat", "query", "test"),
        Input(f"{tmp_path}/b.png", "b.png"),  # no role and no split that there is
    ]
    assert [reject.code for reject in rejects] == ["E_PATH_MISSING", "E_PATH_OUTSIDE"]


def test_a_table_of_vectors_may_have_nothing_else(tmp_path):
    table = tmp_path / "vectors.parquet"
    parquet.write_table(pa.table({"embedding": [[1.0, 2.0], [float("nan"), 0.0], [3.0, 4.0]]}), table)
    (first, second), rejects = list_inputs([table], vectors=True)
    assert first[:5] == (f"{table}, row 1", "row-0000001", "", "both", "")
    np.testing.assert_array_equal([first.vector, second.vector], [[1, 2], [3, 4]])
    [reject] = rejects
    assert (reject.path, reject.code) == (f"{table}, row 2", "E_VECTOR_UNUSABLE")


def test_an_id_stands_for_one_input(tmp_path):
    table = tmp_path / "vectors.parquet"
    columns = {"id": ["x", "x"], "label": ["a", "b"], "vector": [[1.0], [2.0]]}
    parquet.write_table(pa.table(columns), table)
    inputs, rejects = list_inputs([table], vectors=True)
    assert [row.label for row in inputs] == ["a"]
    assert rejects == [Reject(f"{table}, row 2", "x", "E_ID_DUPLICATE", f"the path '{table}, row 1' has the same id")]


def test_no_inputs_are_an_error(tmp_path):
    with pytest.raises(DataError, match="E_NO_IMAGES"):
        list_inputs([tmp_path], vectors=False)
