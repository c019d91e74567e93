"""The store of items: durable, ordered, all or nothing; on SQLite and on a real PostgreSQL."""

import socket
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from random import Random
from subprocess import PIPE, Popen
from threading import Event, Thread

import numpy as np
import psycopg
import pytest
from databases import fresh_database

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.release import database
from anchorage.release.items import Item, ItemStore, OutdatedError, default_store

_NUMBERS = count(1)


def item(id_, first=1.0, **more):
    return Item(id_, "label", vector=np.array([first, 2.0], np.float32), **more)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/items.sqlite"
    return fresh_database(request.getfixturevalue("postgresql_server"), f"items {next(_NUMBERS)}")


def test_items_come_back_as_they_were_written(url):
    full = Item("é/1", "Labél", {"color": "röt"}, np.array([0.1, -2.0], np.float32), 99, "abc", b"\x00image")
    assert ItemStore(url).write([full]) == 1
    again = ItemStore(url).get("é/1")
    assert (again.id, again.label, again.attributes, again.change) == ("é/1", "Labél", {"color": "röt"}, 1)
    assert (again.fingerprint, again.image, again.deleted) == ("abc", b"\x00image", False)
    np.testing.assert_array_equal(again.vector, np.array([0.1, -2.0], np.float32))


def test_vectors_of_another_model_are_kept_beside_the_state_that_they_are_of(url):
    store = ItemStore(url)
    store.write([item("a", fingerprint="one"), item("b", fingerprint="one"), item("c", fingerprint="one")])
    store.keep_vectors([
        replace(each, vector=np.array([number, 3.0], np.float32), fingerprint="two", pixels=f"digest {number}")
        for number, each in enumerate(store.changes(0))
    ])  # fmt: skip
    store.write([item("b", 5.0), Item("c", deleted=True)])
    kept = ItemStore(url).kept_vectors(store.changes(0), "two")
    assert [(each.id, each.label, each.fingerprint, each.pixels) for each in kept] == [
        ("a", "label", "two", "digest 0")
    ]
    np.testing.assert_array_equal(kept[0].vector, [0.0, 3.0])
    assert store.kept_vectors(store.changes(0), "three") == []
    assert store.get("a").fingerprint == "one"


def test_a_store_without_digests_gets_them(tmp_path):
    """As stores of before are."""
    url = f"sqlite:///{tmp_path}/items.sqlite"
    ItemStore(url).write([item("a")])
    with sqlite3.connect(tmp_path / "items.sqlite") as connection:
        connection.execute("ALTER TABLE items DROP COLUMN pixels")
        connection.execute("DROP TABLE vectors")
    store = ItemStore(url)
    store.write([item("b", pixels="digest")])
    assert [(each.id, each.pixels) for each in store.changes(0)] == [("a", ""), ("b", "digest")]


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


def test_a_batch_made_from_an_earlier_state_is_refused_whole(url):
    store = ItemStore(url)
    store.write([item("a"), item("b")])
    ItemStore(url).write([item("b", 5.0)])
    many = [item(f"{number}") for number in range(1000)]
    for later in (item("b"), Item("b", deleted=True)):
        with pytest.raises(OutdatedError):
            store.write([item("a", 7.0), *many, later], seen=2)
    assert [(each.id, each.vector[0]) for each in store.changes(0)] == [("a", 1), ("b", 5)]
    assert store.write([item("a", 7.0)], seen=2) == 4  # it was not changed since
    assert store.write([item("b", 7.0)], seen=3) == 5


def test_an_empty_batch(url):
    with pytest.raises(DataError, match="E_ITEMS_EMPTY"):
        ItemStore(url).write([])


def test_large_batches(url):
    store = ItemStore(url)
    assert store.write([item(f"{number}") for number in range(1201)]) == 1201
    assert [each.id for each in store.changes(0)] == [f"{number}" for number in range(1201)]


def test_every_commit_of_sqlite_is_flushed_to_the_disk(tmp_path):
    store = ItemStore(f"sqlite:///{tmp_path}/items.sqlite")
    with store._database._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    assert sqlite3.connect(tmp_path / "items.sqlite").execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_commits_are_synchronous_whatever_the_server_defaults_to(postgresql_server):
    url = fresh_database(postgresql_server, "careless")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER DATABASE careless SET synchronous_commit TO off")
    store = ItemStore(url)
    with store._database._engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_stores_on_one_database_follow_each_other(url):
    """Four writers at once: whoever reads on from the last number seen gets every change once, and in order."""
    rounds, writers = 15, 4
    stores, seen, finished = [ItemStore(url) for _ in range(writers)], [], Event()

    def write(writer):
        for number in range(rounds):
            stores[writer].write([item(f"{writer}-{number}-{part}") for part in range(3)])

    def follow():
        reader = ItemStore(url)
        while True:
            last_round = finished.is_set()
            seen.extend(reader.changes(seen[-1].change if seen else 0, limit=7))
            if last_round and seen[-1].change == reader.last_change():
                return

    follower = Thread(target=follow)
    follower.start()
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    finished.set()
    follower.join()
    assert [each.change for each in seen] == list(range(1, 3 * rounds * writers + 1))
    assert len({each.id for each in seen}) == len(seen)


WRITER = """
import sys
import numpy as np
from anchorage.release.items import Item, ItemStore
store, name, number = ItemStore(sys.argv[1]), sys.argv[2], 0
while True:
    batch = [Item(f"{name}-{number}-{part}", f"{number}", {"a": "b"}, np.full(32, number + 1.0, np.float32),
                  image=bytes(1000)) for part in range(3)]
    store.write([*batch, Item("counter", f"{number}", vector=np.ones(32, np.float32))])
    print(number, flush=True)
    number += 1
"""


def test_no_acknowledged_write_is_lost_by_kill_9(url):
    random, store = Random(0), ItemStore(url)
    for life in range(4):
        with Popen([sys.executable, "-c", WRITER, url, f"life{life}"], stdout=PIPE, text=True) as child:
            acknowledged = [int(child.stdout.readline())]  # it is at work
            Event().wait(random.uniform(0, 0.3))
            child.kill()
            acknowledged += map(int, child.stdout.read().split())
        assert acknowledged == list(range(len(acknowledged)))
        for number in acknowledged:
            for part in range(3):
                stored = store.get(f"life{life}-{number}-{part}")
                assert (stored.label, stored.attributes, stored.image) == (f"{number}", {"a": "b"}, bytes(1000))
                np.testing.assert_array_equal(stored.vector, np.full(32, number + 1.0, np.float32))
        # The batch in flight is there as a whole or not at all.
        number = len(acknowledged)
        parts = [store.get(f"life{life}-{number}-{part}") is not None for part in range(3)]
        assert parts in ([True] * 3, [False] * 3)
        assert store.get("counter").label == f"{number if parts[0] else number - 1}"
        assert store.get(f"life{life}-{number + 1}-0") is None
    changes = [each.change for each in store.changes(0, limit=100_000)]
    assert changes == sorted(set(changes))
    assert changes[-1] == store.last_change()


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


@pytest.mark.parametrize("url", ["me:secret@127.0.0.1:1/gallery", "127.0.0.1:1/gallery?user=me&password=secret"])
def test_the_password_is_not_shown(url):
    with pytest.raises(ResourceError, match=r"E_STORE_UNAVAILABLE.*127\.0\.0\.1:1/gallery") as caught:
        ItemStore(f"postgresql://{url}")
    assert "secret" not in str(caught.value)


@pytest.mark.timeout(60)
def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setitem(database._GIVES_UP, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ResourceError, match="E_STORE_UNAVAILABLE"):
        ItemStore(f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/gallery")


def test_the_store_lies_beside_the_releases(tmp_path):
    assert default_store(tmp_path / "releases") == f"sqlite:///{tmp_path}/releases/items.sqlite"
