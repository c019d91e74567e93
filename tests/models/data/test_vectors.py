"""Tables of vectors: the layouts that other tools write, columns, rows at fault."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from anchorage.data.vectors import VectorTable, is_vector_data, list_vectors, read_vectors
from anchorage.errors import DataError

ROWS, DIM = 12, 3
VECTORS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float16")
LABELS = [f"class {number // 3}" for number in range(ROWS)]


def lists(vectors, kind=None):
    return pa.array([None if row is None else list(row) for row in vectors], kind or pa.list_(pa.float64()))


def listed(table, **shares):
    return list_vectors(table, **{"val_share": 0.25, "test_share": 0.5, "seed": 0, **shares})


def all_vectors(table):
    return list(read_vectors(table, listed(table).sources))


@pytest.fixture(params=["list<double>", "fixed<half>", "large<float>", "npy", "npy and csv", "arrow", "arrow by split"])
def table(request, tmp_path):
    """The same vectors and, but for two of them, labels in every layout."""
    path = tmp_path / "vectors.parquet"
    if request.param == "list<double>":  # as pandas writes it
        parquet.write_table(pa.table({"label": LABELS, "vector": lists(VECTORS)}), path)
    elif request.param == "fixed<half>":  # as clip-retrieval writes it
        halves = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), DIM)
        parquet.write_table(pa.table({"class": LABELS, "embedding": halves}), path)
    elif request.param == "large<float>":
        rows = lists(VECTORS, pa.large_list(pa.float32()))
        parquet.write_table(pa.table({"label": LABELS, "embeddings": rows}), path, row_group_size=5)
    elif request.param.startswith("npy"):
        path = tmp_path / "vectors.npy"
        np.save(path, VECTORS)
        if request.param.endswith("csv"):
            (tmp_path / "vectors.csv").write_text("label\n" + "\n".join(LABELS) + "\n")
    else:
        path = tmp_path / "saved"
        names = sorted(set(LABELS))
        numbers = [names.index(label) for label in LABELS]
        parts = {"train": slice(0, 6), "test": slice(6, ROWS)} if request.param.endswith("split") else {"": slice(None)}
        for name, part in parts.items():
            write_arrow(path / name, pa.table({"label": numbers[part], "vector": lists(VECTORS[part])}), names)
        if "" not in parts:
            (path / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return VectorTable(path)


def write_arrow(folder, table, names):
    """One part of a data set in the layout of `datasets.Dataset.save_to_disk`."""
    folder.mkdir(parents=True)
    features = {"label": {"names": names, "_type": "ClassLabel"}, "vector": {"feature": {}, "_type": "List"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


def test_reads_the_vectors_of_every_layout_in_their_order(table):
    assert table.dimension == DIM
    rows = all_vectors(table)
    assert [row.source.id for row in rows] == [f"row-{number:07d}" for number in range(1, ROWS + 1)]
    np.testing.assert_array_equal(np.stack([row.values for row in rows]), VECTORS.astype("float32"))
    if table.has_labels:
        assert [row.source.label for row in rows] == LABELS
    assert is_vector_data(table.path)


def test_classes_are_assigned_to_splits_unless_the_table_has_its_own(table):
    splits = {}
    for source in listed(table).sources:
        splits.setdefault(source.label, set()).add(source.split)
    if not table.has_labels:
        assert set(splits) == {""}
        return
    assert all(len(found) == 1 for found in splits.values())
    if table.path.name == "saved" and (table.path / "dataset_dict.json").exists():
        assert splits["class 2"] == splits["class 3"] == {"test"}
        assert splits["class 0"] | splits["class 1"] == {"train", "val"}


def test_keeps_ids_paths_roles_and_attributes(tmp_path):
    path = tmp_path / "vectors.parquet"
    columns = {"name": ["a", None], "path": ["x/1.png", "x/2.png"], "label": ["k", "k"], "v": lists(VECTORS[:2])}
    columns |= {"split": ["test", "test"], "role": ["query", "gallery"], "camera": [1, 2]}
    parquet.write_table(pa.table(columns), path)
    table = VectorTable(path, {"id": "name", "vector": "v"}, attributes=["camera"])
    first, second = listed(table).sources
    attributes = {"camera": "1", "path": "x/1.png"}
    assert (first.id, first.role, first.split, dict(first.attributes)) == ("a", "query", "test", attributes)
    assert (second.id, second.role) == ("x/2.png", "gallery")


def test_a_path_is_an_attribute_only_besides_an_id(tmp_path):
    path = tmp_path / "vectors.parquet"
    columns = {"path": ["x/1.png"], "file": ["2.png"], "vector": lists(VECTORS[:1])}
    parquet.write_table(pa.table(columns), path)
    assert not VectorTable(path).has_paths
    assert listed(VectorTable(path)).sources[0].attributes == ()
    parquet.write_table(pa.table({**columns, "id": ["a"]}), path)
    assert listed(VectorTable(path, {"path": "file"})).sources[0].attributes == (("path", "2.png"),)
    with pytest.raises(DataError, match=r"the attribute 'path' is the path of the picture, 'file'"):
        VectorTable(path, {"path": "file"}, attributes=["path"])


def test_names_every_row_at_fault(tmp_path):
    path = tmp_path / "vectors.parquet"
    rows = [[1.0, 2.0], [1.0], None, [np.nan, 1.0], [np.inf, 1.0], [0.0, 0.0], [1.0, None], [3.0, 4.0]]
    labels = ["a", "b", "c", "d", "e", "f", "g", None]
    parquet.write_table(pa.table({"label": labels, "vector": lists(rows)}), path)
    table = VectorTable(path)
    listing = listed(table)
    assert [(reject.path, reject.code) for reject in listing.rejects] == [("row 8", "E_LABEL_MISSING")]
    good, *bad = read_vectors(table, listing.sources)
    np.testing.assert_array_equal(good.values, [1.0, 2.0])
    assert {reject.code for reject in bad} == {"E_VECTOR_UNUSABLE"}
    received = "NaN, infinity or a missing number"
    messages = {reject.path: reject.message for reject in bad}
    assert messages.pop("row 6") == "a vector of zeros has no direction"
    assert {path: message.partition("Received: ")[2] for path, message in messages.items()} == {
        "row 2": "1",
        "row 3": "0",
        "row 4": received,
        "row 5": received,
        "row 7": received,
    }


def test_an_id_that_comes_twice_is_rejected(tmp_path):
    path = tmp_path / "vectors.parquet"
    parquet.write_table(pa.table({"id": ["a", "a"], "vector": lists(VECTORS[:2])}), path)
    assert [reject.code for reject in listed(VectorTable(path)).rejects] == ["E_ID_DUPLICATE"]


def test_all_mistakes_in_the_columns_are_reported_at_once(tmp_path):
    path = tmp_path / "vectors.parquet"
    parquet.write_table(pa.table({"vector": [1.0], "text": ["a"]}), path)
    with pytest.raises(DataError, match=r"no column 'name' for the label.*no column 'camera'.*must be lists") as caught:
        VectorTable(path, {"label": "name"}, attributes=["camera"])
    assert caught.value.code == "E_TABLE_COLUMNS"


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (lambda path: None, "E_DATA_MISSING"),
        (lambda path: path.write_bytes(b"PAR1 and no more"), "E_TABLE_DAMAGED"),
        (lambda path: parquet.write_table(pa.table({"vector": lists([None, []])}), path), "E_DATA_EMPTY"),
    ],
)
def test_rejects_a_file_that_is_not_a_table_of_vectors(tmp_path, write, code):
    path = tmp_path / "vectors.parquet"
    write(path)
    with pytest.raises(DataError) as caught:
        VectorTable(path)
    assert caught.value.code == code


def test_numpy_and_its_table_must_have_the_same_rows(tmp_path):
    np.save(tmp_path / "vectors.npy", VECTORS)
    (tmp_path / "vectors.csv").write_text("label\na\n")
    with pytest.raises(DataError, match=r"expected 12 rows .* Received: 1"):
        VectorTable(tmp_path / "vectors.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):  # nothing is unpickled
        VectorTable(tmp_path / "objects.npy")


def test_tables_of_images_and_folders_are_no_vectors(tmp_path):
    parquet.write_table(pa.table({"path": ["a.png"], "label": ["a"]}), tmp_path / "images.parquet")
    for name in ("images.parquet", "images.csv", "absent.parquet", ""):
        assert not is_vector_data(tmp_path / name)
