import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from anchorage.data import store as stores
from anchorage.data.store import Record, RecordSpec, RecordStore, finish_store, write_shard, write_store
from anchorage.errors import DataError


def records(size=4):
    """Five records in an order that is sorted neither by label nor by id."""
    names = [("b/2", "b"), ("a/9", "a"), ("b/1", "b"), ("ä/é", "ä"), ("a/1", "a")]
    for number, (key, label) in enumerate(names):
        yield Record(key, label, "query" if number == 2 else "both", np.full((size, size, 3), number * 10, np.uint8))


@pytest.fixture
def folder(tmp_path):
    """A store of two shards: three records and two."""
    rows = list(records())
    shards = [write_shard(tmp_path, 1, iter(rows[3:])), write_shard(tmp_path, 0, iter(rows[:3]))]
    finish_store(tmp_path, shards, RecordSpec(4, "pad"))
    return tmp_path


def test_rows_are_grouped_by_class_and_sorted_by_id(folder):
    store = RecordStore(folder)
    assert store.ids.tolist() == ["a/1", "a/9", "b/1", "b/2", "ä/é"]
    assert store.labels.tolist() == [0, 0, 1, 1, 2]
    assert store.labels.dtype == np.int32
    assert store.class_names == ["a", "b", "ä"]
    assert store.roles.tolist() == ["both", "both", "query", "both", "both"]
    assert (len(store), store.spec) == (5, RecordSpec(4, "pad"))


def test_read_gives_the_images_in_the_order_asked_for(folder):
    images = RecordStore(folder).read([4, 0, 2, 2])
    assert images.shape == (4, 4, 4, 3)
    assert images.dtype == np.uint8
    assert images[:, 0, 0, 0].tolist() == [30, 40, 20, 20]
    assert (images == images[:, :1, :1, :1]).all()


def test_read_of_no_rows(folder):
    assert RecordStore(folder).read(np.array([], int)).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("rows", [[-1], [5], [0, 99]])
def test_rows_outside_are_refused(folder, rows):
    with pytest.raises(IndexError, match=r"Expected rows in \[0, 5\)"):
        RecordStore(folder).read(rows)


def test_one_line_store(tmp_path):
    write_store(tmp_path / "deep/store", records(), RecordSpec(4))
    assert RecordStore(tmp_path / "deep/store").read([1])[0, 0, 0].tolist() == [10, 10, 10]


def test_an_empty_store_opens_with_no_rows(tmp_path):
    write_store(tmp_path, iter([]), RecordSpec(4))
    store = RecordStore(tmp_path)
    assert (len(store), store.class_names) == (0, [])
    assert store.read([]).shape == (0, 4, 4, 3)


def test_digest_follows_pixels_and_not_the_place(tmp_path):
    for name in "ab":
        write_store(tmp_path / name, records(), RecordSpec(4))
    other = [record._replace(content=255 - record.content) for record in records()]
    write_store(tmp_path / "c", other, RecordSpec(4))
    first, second, third = (RecordStore(tmp_path / name).digest for name in "abc")
    assert first == second != third


def test_a_pickled_store_reads_on(folder):
    store = RecordStore(folder)
    store.read([0])
    copy = pickle.loads(pickle.dumps(store))
    del store
    assert copy.read([0])[0, 0, 0, 0] == 40


def test_a_failed_shard_leaves_nothing(tmp_path):
    def broken():
        yield next(records())
        raise RuntimeError("source went away")

    with pytest.raises(RuntimeError, match="went away"):
        write_shard(tmp_path, 0, broken())
    assert list(tmp_path.iterdir()) == []


def test_images_of_two_sizes_are_refused(tmp_path):
    mixed = [next(records(4)), next(records(5))]
    with pytest.raises(ValueError, match=r"Expected uint8 images of one shape .* \(5, 5, 3\) for 'b/2'"):
        write_shard(tmp_path, 0, mixed)


def test_unknown_role_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`role` must be one of query, gallery, both. Received: 'probe'"):
        write_shard(tmp_path, 0, [next(records())._replace(role="probe")])


def test_equal_ids_are_refused(tmp_path):
    with pytest.raises(DataError, match="E_ID_DUPLICATE: 1 ids stand for several records, first: 'b/2'"):
        write_store(tmp_path, [*records(), next(records())], RecordSpec(4))


def test_a_missing_shard_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"numbered from 0. Received: \[1\]"):
        finish_store(tmp_path, [write_shard(tmp_path, 1, records())], RecordSpec(4))


def test_no_store_there(tmp_path):
    with pytest.raises(DataError, match="E_STORE_MISSING"):
        RecordStore(tmp_path / "nowhere")


def test_unfinished_store(tmp_path):
    write_shard(tmp_path, 0, records())
    with pytest.raises(DataError, match="E_STORE_MISSING"):
        RecordStore(tmp_path)


def test_cut_off_shard_is_found_on_opening(folder):
    os.truncate(folder / "shard-00001.u8", 95)
    with pytest.raises(DataError, match=r"E_STORE_DAMAGED: .*shard-00001.u8: expected 96 bytes. Received: 95"):
        RecordStore(folder)


def test_shard_cut_off_after_opening_is_an_error_and_no_crash(folder):
    store = RecordStore(folder)
    os.truncate(folder / "shard-00001.u8", 10)
    with pytest.raises(DataError, match=r"shard-00001.u8 ends inside row 0"):
        store.read([4])


def test_inverted_pixels_are_found_on_opening(folder):
    pixels = np.fromfile(folder / "shard-00001.u8", np.uint8)
    (~pixels).tofile(folder / "shard-00001.u8")
    with pytest.raises(DataError, match=r"E_STORE_DAMAGED: .*shard-00001.u8 was changed after packing"):
        RecordStore(folder)


def test_a_changed_index_is_found_on_opening(folder):
    index = parquet.read_table(folder / "index.parquet")
    labels = index["label"].to_pylist()
    parquet.write_table(index.set_column(1, "label", pa.array(labels[::-1])), folder / "index.parquet")
    with pytest.raises(DataError, match=r"E_STORE_DAMAGED: .*index.parquet was changed after packing"):
        RecordStore(folder)


def test_a_store_is_read_through_once_a_process_and_again_after_a_change(folder, monkeypatch):
    RecordStore(folder)
    hashed = []
    monkeypatch.setattr(stores, "hash_file", lambda path: hashed.append(path.name) or "changed")
    RecordStore(folder)
    assert hashed == []
    os.utime(folder / "shard-00000.u8", ns=(0, 1))
    with pytest.raises(DataError, match="E_STORE_DAMAGED"):
        RecordStore(folder)
    assert hashed == ["shard-00000.u8"]


def test_missing_shard(folder):
    (folder / "shard-00000.u8").unlink()
    with pytest.raises(DataError, match=r"E_STORE_DAMAGED: .*shard-00000.u8: expected 144 bytes. Received: no file"):
        RecordStore(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense PAR1"])
def test_rejects_a_damaged_index(folder, content):
    (folder / "index.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"E_STORE_DAMAGED: .*index.parquet"):
        RecordStore(folder)


@pytest.mark.parametrize(
    "change", [{"format": 1}, {"count": 6}, {"classes": 2}, {"shards": [{"rows": 3}]}, {"image_size": None}]
)
def test_facts_that_do_not_fit(folder, change):
    facts = {**json.loads((folder / "store.json").read_text()), **change}
    (folder / "store.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    with pytest.raises(DataError, match="E_STORE_DAMAGED"):
        RecordStore(folder)
