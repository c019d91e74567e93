"""The store of items: durable, ordered, all or nothing; on SQLite and on a real PostgreSQL."""

import sqlite3

import numpy as np
import pytest

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.release.items import Item, ItemStore, default_store


def item(id_, first=1.0, **more):
    return Item(id_, "label", vector=np.array([first, 2.0], np.float32), **more)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/items.sqlite"


def test_items_come_back_as_they_were_written(url):
    full = Item("é/1", "Labél", {"color": "röt"}, np.array([0.1, -2.0], np.float32), 99, "abc", b"\x00image")
    assert ItemStore(url).write([full]) == 1
    again = ItemStore(url).get("é/1")
    assert (again.id, again.label, again.attributes, again.change) == ("é/1", "Labél", {"color": "röt"}, 1)
    assert (again.fingerprint, again.image, again.deleted) == ("abc", b"\x00image", False)
    np.testing.assert_array_equal(again.vector, np.array([0.1, -2.0], np.float32))


def test_an_empty_store_has_no_changes(url):
    store = ItemStore(url)
    assert (store.last_change(), store.changes(0), store.get("a")) == (0, [], None)


def test_changes_have_consecutive_numbers_and_the_latest_state(url):
    store = ItemStore(url)
    assert store.write([item("a"), item("b"), item("c")]) == 3
    assert store.write([item("a", 5.0), Item("b", deleted=True)]) == 5
    assert [(each.id, each.change, each.deleted) for each in store.changes(0)] == [
        ("c", 3, False), ("a", 4, False), ("b", 5, True),
    ]  # fmt: skip
    assert [each.id for each in store.changes(0, limit=2)] == ["c", "a"]
    assert [each.id for each in store.changes(4)] == ["b"]
    assert store.changes(5) == []
    assert store.get("a").vector[0] == 5


def test_a_deleted_item_keeps_nothing_and_can_be_added_again(url):
    store = ItemStore(url)
    store.write([item("a", attributes={"x": "y"}, image=b"i")])
    store.write([Item("a", "kept?", {"x": "y"}, np.ones(2, np.float32), image=b"i", deleted=True)])
    gone = store.get("a")
    assert (gone.deleted, gone.label, gone.attributes, gone.vector, gone.image) == (True, "", {}, None, None)
    store.write([item("a")])
    assert not store.get("a").deleted


def test_changes_leave_images_out(url):
    store = ItemStore(url)
    store.write([item("a", image=b"i")])
    assert store.changes(0)[0].image is None
    assert store.get("a").image == b"i"


def test_one_fault_refuses_the_whole_batch_and_every_fault_is_named(url):
    store = ItemStore(url)
    batch = [
        item("good"), item("twice"), item("twice"), item("nan", np.nan), item("", 1.0),
        Item("zero", vector=np.zeros(2, np.float32)), Item("none"), item("odd", attributes={"size": 3}),
        item("nul\0"), item("x" * 1025),
    ]  # fmt: skip
    with pytest.raises(DataError, match="E_ITEMS_REFUSED") as caught:
        store.write(batch)
    expected = {
        1: "E_ID_DUPLICATE", 2: "E_ID_DUPLICATE", 3: "E_VECTOR_NOT_FINITE", 4: "E_ITEM_TEXT", 5: "E_VECTOR_ZERO",
        6: "E_VECTOR_SHAPE", 7: "E_ITEM_TEXT", 8: "E_ITEM_TEXT", 9: "E_ITEM_TEXT",
    }  # fmt: skip
    for place, code in expected.items():
        assert f"item {place} ({batch[place].id[:80]!r}): {code}" in caught.value.message
    assert "item 0 " not in caught.value.message
    assert (store.last_change(), store.changes(0)) == (0, [])


def test_an_empty_batch(url):
    with pytest.raises(DataError, match="E_ITEMS_EMPTY"):
        ItemStore(url).write([])


def test_large_batches(url):
    store = ItemStore(url)
    assert store.write([item(f"{number}") for number in range(1201)]) == 1201
    assert [each.id for each in store.changes(0)] == [f"{number}" for number in range(1201)]


def test_every_commit_is_flushed_to_the_disk(url, tmp_path):
    store = ItemStore(url)
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    assert sqlite3.connect(tmp_path / "items.sqlite").execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("url", ["mysql://me:secret@host/x", "items.sqlite", "sqlite://", "sqlite:///:memory:"])
def test_other_urls(url):
    with pytest.raises(UsageError, match="E_STORE_URL") as caught:
        ItemStore(url)
    assert "secret" not in str(caught.value)


def test_a_database_that_cannot_be_opened(tmp_path):
    with pytest.raises(ResourceError, match="E_STORE_UNAVAILABLE"):
        ItemStore(f"sqlite:///{tmp_path}/no/such/folder.sqlite")
    (tmp_path / "text.sqlite").write_text("no database at all" * 100)
    with pytest.raises(ResourceError, match="E_STORE_UNAVAILABLE"):
        ItemStore(f"sqlite:///{tmp_path}/text.sqlite")


def test_the_password_is_not_shown():
    with pytest.raises(ResourceError, match="E_STORE_UNAVAILABLE") as caught:
        ItemStore("postgresql://me:secret@127.0.0.1:1/gallery")
    assert "secret" not in str(caught.value)


def test_the_store_lies_beside_the_releases(tmp_path):
    assert default_store(tmp_path / "releases") == f"sqlite:///{tmp_path}/releases/items.sqlite"
