"""Embedding tables come back as they went, or say what is wrong with them."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from anchorage.errors import DataError
from anchorage.retrieval.table import (
    Embeddings,
    count_rows,
    embedding_schema,
    map_gallery,
    read_ids,
    read_table,
    write_ids,
    write_table,
)


def table(ids, labels, splits, dim=3, roles=None):
    rows = len(ids)
    texts = [np.array(column, object) for column in (ids, labels, roles or ["both"] * rows, splits)]
    return Embeddings(*texts, np.arange(rows * dim, dtype="float32").reshape(rows, dim))


def test_comes_back_sorted_by_split_label_and_id(tmp_path):
    write_table(
        tmp_path / "t.parquet", table(["c/1", "a/2", "a/1", "é b/1"], ["c", "a", "a", "é b"], ["val"] + ["test"] * 3)
    )
    again = read_table(tmp_path / "t.parquet")
    assert again.ids.tolist() == ["a/1", "a/2", "é b/1", "c/1"]
    assert again.splits.tolist() == ["test", "test", "test", "val"]
    assert again.vectors.dtype == np.float32
    np.testing.assert_array_equal(again.vectors[:, 0], [6, 3, 9, 0])
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]


def test_files_of_a_folder_are_one_table_whatever_their_cut(tmp_path):
    whole = table(list("abcd"), list("xxyy"), ["test"] * 4)
    for name, rows in (("p-1.parquet", [3, 0]), ("p-0.parquet", [2, 1])):
        write_table(tmp_path / name, whole.select(rows))
    again = read_table(tmp_path)
    assert again.ids.tolist() == list("abcd")
    np.testing.assert_array_equal(again.vectors, whole.vectors)


def test_a_gallery_is_mapped_file_after_file(tmp_path):
    family = {"family": np.array(list("pqrstu"), object)}
    roles = ["query", "gallery", "both", "both", "query", "both"]
    whole = replace(table(list("abcdef"), list("xxyyzz"), ["test", "val"] * 3, roles=roles), columns=family)
    for name, rows in (("p-1.parquet", [5, 4, 3]), ("p-0.parquet", [2, 1, 0])):
        write_table(tmp_path / name, whole.select(rows))
    gallery, queries = map_gallery(tmp_path, tmp_path / "vectors.npy")
    assert gallery.ids.tolist() == ["c", "b", "f", "d"]
    assert gallery.columns["family"].tolist() == ["r", "q", "u", "s"]
    np.testing.assert_array_equal(gallery.vectors, whole.vectors[[2, 1, 5, 3]])
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), gallery.vectors)
    np.testing.assert_array_equal(queries, whole.vectors[[0, 4]])
    gallery, queries = map_gallery(tmp_path, tmp_path / "val.npy", ["val"])
    assert (gallery.ids.tolist(), gallery.splits.tolist()) == (["b", "f", "d"], ["val"] * 3)
    np.testing.assert_array_equal(gallery.vectors, whole.vectors[[1, 5, 3]])
    assert queries.shape == (0, 3)


def test_galleries_that_cannot_be_mapped(tmp_path):
    def read(*parts, splits=None):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for number, part in enumerate(parts):
            write_table(folder / f"{number}.parquet", part)
        return map_gallery(folder, folder / "vectors.npy", splits)

    one = table(["a"], ["x"], ["test"])
    with pytest.raises(DataError, match="E_TABLE_MISSING"):
        read()
    with pytest.raises(DataError, match="E_ID_DUPLICATE"):
        read(one, one)
    with pytest.raises(DataError, match=r"E_VECTOR_SHAPE: .*\{3, 4\}"):
        read(one, table(["b"], ["x"], ["test"], dim=4))
    with pytest.raises(DataError, match=r"E_SPLIT_EMPTY: .*'train'"):
        read(one, splits=["train"])
    with pytest.raises(DataError, match="E_INDEX_EMPTY"):
        read(table(["a"], ["x"], ["test"], roles=["query"]))
    with pytest.raises(DataError, match="E_TABLE_DAMAGED: Expected the same columns"):
        read(one, replace(table(["b"], ["x"], ["test"]), columns={"family": np.array(["p"], object)}))
    parquet.write_table(pa.table({name: ["a"] for name in ("id", "label", "role", "split")}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="E_TABLE_DAMAGED: Expected the column vector"):
        map_gallery(tmp_path / "t.parquet", tmp_path / "v.npy")


def test_further_columns_come_back_and_are_selected(tmp_path):
    plain = table(list("abc"), list("xxy"), ["test"] * 3)
    family = np.array(["one", "", "two"], object)
    whole = Embeddings(plain.ids, plain.labels, plain.roles, plain.splits, plain.vectors, {"family": family})
    write_table(tmp_path / "t.parquet", whole)
    again = read_table(tmp_path)
    assert again.columns["family"].tolist() == ["one", "", "two"]
    assert again.select([2]).columns["family"].tolist() == ["two"]
    write_table(tmp_path / "u.parquet", plain)
    with pytest.raises(DataError, match=r"E_TABLE_DAMAGED: Expected the same columns in all files"):
        read_table(tmp_path)


def test_only_the_splits_asked_for(tmp_path):
    write_table(tmp_path / "t.parquet", table(list("abc"), list("xxy"), ["train", "test", "val"]))
    assert read_table(tmp_path, ["val", "test"]).ids.tolist() == ["b", "c"]


def test_empty_split_names_those_that_are_there(tmp_path):
    write_table(tmp_path / "t.parquet", table(list("ab"), list("xx"), ["train", "val"]))
    with pytest.raises(DataError, match=r"E_SPLIT_EMPTY: .*\['test'\].*splits in the table: \['train', 'val'\]"):
        read_table(tmp_path, ["test"])


def test_files_without_rows_count_for_nothing(tmp_path):
    with parquet.ParquetWriter(tmp_path / "p-0.parquet", embedding_schema(3)):
        pass  # no row group at all, as Beam leaves it
    assert count_rows(tmp_path) == {}
    with pytest.raises(DataError, match=r"E_SPLIT_EMPTY: .*splits in the table: \[\]"):
        read_table(tmp_path)
    write_table(tmp_path / "p-1.parquet", table(list("ab"), list("xx"), ["train", "val"]))
    assert count_rows(tmp_path) == {"train": 1, "val": 1}
    assert len(read_table(tmp_path)) == 2


def test_rejects_a_missing_table(tmp_path):
    with pytest.raises(DataError, match="E_TABLE_MISSING"):
        read_table(tmp_path)
    with pytest.raises(DataError, match="E_TABLE_MISSING"):
        read_table(tmp_path / "t.parquet")


def test_cut_off_file(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, table(list("ab"), list("xx"), ["test"] * 2))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"E_TABLE_DAMAGED: .*t\.parquet"):
        read_table(path)


def test_rejects_repeated_ids(tmp_path):
    write_table(tmp_path / "t.parquet", table(list("aba"), list("xxy"), ["test"] * 3))
    with pytest.raises(DataError, match=r"E_ID_DUPLICATE: .* 1 repeated: \['a'\]"):
        read_table(tmp_path)


def test_two_dimensions_in_one_folder(tmp_path):
    write_table(tmp_path / "p-0.parquet", table(["a"], ["x"], ["test"], dim=3))
    write_table(tmp_path / "p-1.parquet", table(["b"], ["x"], ["test"], dim=4))
    with pytest.raises(DataError, match=r"E_VECTOR_SHAPE: .* Received: \{3, 4\}"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("vector", pa.array([[1.0, 2.0]], pa.list_(pa.float32())), "fixed-size list of float32"),
        ("vector", pa.array([None], pa.list_(pa.float32(), 2)), "lists to be of size=2"),
        ("label", pa.array([None], pa.string()), "1 empty"),
    ],
)
def test_columns_that_are_not_right(tmp_path, column, values, message):
    row = {"id": ["a"], "label": ["x"], "role": ["both"], "split": ["test"]}
    columns = {**{k: pa.array(v) for k, v in row.items()}, "vector": pa.array([[1, 2]], pa.list_(pa.float32(), 2))}
    parquet.write_table(pa.table({**columns, column: values}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=f"E_TABLE_DAMAGED: .*{message}"):
        read_table(tmp_path)


def test_rejects_a_table_without_a_required_column(tmp_path):
    parquet.write_table(pa.table({"id": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="E_TABLE_DAMAGED: Expected the column label"):
        read_table(tmp_path)


def test_ids_keep_their_order(tmp_path):
    write_ids(
        tmp_path / "ids.parquet", table(list("cab"), list("zxy"), ["test"] * 3, roles=["both", "gallery", "both"])
    )
    again = read_ids(tmp_path / "ids.parquet")
    assert {name: column.tolist() for name, column in again.items()} == {
        "id": list("cab"), "label": list("zxy"), "role": ["both", "gallery", "both"], "split": ["test"] * 3,
    }  # fmt: skip


def test_additional_columns_become_attributes_of_an_index(tmp_path):
    columns = {"color": np.array(["red", ""], object), "role": np.array(["no", "role"], object)}
    rows = table(["a", "b"], ["x", "x"], ["test"] * 2)
    write_ids(tmp_path / "ids.parquet", replace(rows, columns=columns))
    again = read_ids(tmp_path / "ids.parquet")
    assert again["attribute/color"].tolist() == ["red", ""]
    assert again["attribute/role"].tolist() == ["no", "role"]
    assert again["role"].tolist() == rows.roles.tolist()


def test_columns_must_have_one_length():
    with pytest.raises(DataError, match="E_VECTOR_SHAPE"):
        Embeddings(*(np.array(["a"], object) for _ in range(4)), np.zeros((2, 3), "float32"))


def test_schema_is_what_any_reader_takes_for_a_matrix():
    assert str(embedding_schema(4).field("vector").type) in {
        "fixed_size_list<item: float>[4]",
        "fixed_size_list<element: float>[4]",
    }
