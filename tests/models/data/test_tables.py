import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from anchorage.data.tables import read_table
from anchorage.errors import DataError


def write(tmp_path, text, name="table.csv", encoding="utf-8"):
    (tmp_path / name).write_bytes(text.encode(encoding))
    return tmp_path / name


def test_extra_columns_are_ignored_and_quotes_understood(tmp_path):
    table = write(tmp_path, 'path,weight,label,licence\r\n"a, b/1.png",3,"say ""x""",MIT\r\nc.png,,y\r\n')
    assert list(read_table(table, {})) == [
        {"path": "a, b/1.png", "label": 'say "x"'},
        {"path": "c.png", "label": "y"},
    ]


def test_class_stands_for_label_and_label_wins(tmp_path):
    assert list(read_table(write(tmp_path, "path,class\na,b\n"), {})) == [{"path": "a", "label": "b"}]
    assert list(read_table(write(tmp_path, "class,path,label\nx,a,b\n"), {})) == [{"path": "a", "label": "b"}]


def test_columns_are_renamed(tmp_path):
    table = write(tmp_path, "\ufefffile\tproduct\tpart\tside\n1.png\t7\ttrain\tboth\n", "table.TSV")
    columns = {"path": "file", "label": "product", "split": "part", "role": "side"}
    assert list(read_table(table, columns)) == [{"path": "1.png", "label": "7", "split": "train", "role": "both"}]


def test_parquet_gives_text_and_empty_for_null(tmp_path):
    table = pa.table({"path": ["a.png", None], "label": pa.array([3, None], pa.int64()), "split": ["train", "test"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet", {})) == [
        {"path": "a.png", "label": "3", "split": "train"},
        {"path": "", "label": "", "split": "test"},
    ]


def test_short_rows_have_empty_values(tmp_path):
    assert list(read_table(write(tmp_path, "path,label\na.png\n"), {})) == [{"path": "a.png", "label": ""}]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [({}, "'label' or 'class' for the label"), ({"label": "kind"}, "'kind' for the label"), ({"role": "r"}, "'r' for")],
)
def test_a_missing_column_is_named_with_those_there(tmp_path, columns, wanted):
    label = "label" if "role" in columns else "name"
    table = write(tmp_path, f"path,{label}\na,b\n")
    with pytest.raises(DataError, match=rf"E_TABLE_COLUMNS: .* column {wanted}.*Received: \['path', '{label}'"):
        list(read_table(table, columns))


def test_broken_tables(tmp_path):
    for text in ('path,label\na,"b\n', ""):
        with pytest.raises(DataError, match="E_TABLE_"):
            list(read_table(write(tmp_path, text), {}))
    with pytest.raises(DataError, match="E_TABLE_DAMAGED"):
        list(read_table(write(tmp_path, "path,label\nä,b\n", encoding="latin-1"), {}))
    with pytest.raises(DataError, match="E_TABLE_DAMAGED"):
        list(read_table(write(tmp_path, "no parquet", "t.parquet"), {}))
    with pytest.raises(DataError, match="E_TABLE_DAMAGED"):
        read_table(write(tmp_path, "{}", "t.json"), {})
    with pytest.raises(DataError, match="E_DATA_MISSING"):
        read_table(tmp_path / "nothing.csv", {})
