"""Items that were added, changed or deleted since a release was made, in SQLite or PostgreSQL.

Each item is one row with its latest state and the number of its last change. A write is one transaction: it takes its
change numbers from a counter whose row it locks until the commit. So change numbers become visible in their own order,
also with several writers, and whoever reads on from the last number seen misses nothing.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.disk import make_folder
from anchorage.items import Item, check_items
from anchorage.release.database import Database
from anchorage.storage import is_remote

__all__ = ["Item", "ItemStore", "OutdatedError", "default_store", "find_store"]

FILE = "items.sqlite"
_ROWS = 500  # per statement


def default_store(releases: str | Path) -> str:
    """Return the URL of the store of a folder of releases: one SQLite file for all versions, whose folder exists.

    It lies beside the releases. For releases in an object store, on which SQLite cannot work, it lies on this machine
    below `$XDG_DATA_HOME/anchorage` (default: `~/.local/share/anchorage`), which no other service sees.
    """
    path = _store_file(releases)
    if is_remote(releases):
        make_folder(path.parent)
    return f"sqlite:///{path}"


def find_store(releases: str | Path) -> str | None:
    """Return the URL of `default_store` if there is such a file, else None."""
    return f"sqlite:///{path}" if (path := _store_file(releases)).is_file() else None


def _store_file(releases: str | Path) -> Path:
    if not is_remote(releases):
        return Path(releases).absolute() / FILE
    base = os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
    scheme, _, place = fspath(releases).partition("://")
    # No bucket is called "gs": its name would have three characters at least.
    return Path(base, "anchorage", "" if scheme == "s3" else scheme, place.strip("/"), FILE)


class OutdatedError(Exception):
    """Another writer has changed an item of a batch since the state that the batch was made from."""


class ItemStore:
    """A durable table of items, which several processes can read and write at once.

    A write that returned survives a crash of the process at any moment, and of the machine: SQLite runs in WAL mode
    with full synchronous commits, and PostgreSQL with `synchronous_commit` at least "on".

    Args:
        url: `sqlite:///PATH`, created if missing, or `postgresql://USER:PASSWORD@HOST/DATABASE`.

    Raises:
        UsageError: `E_STORE_URL` for another kind of URL, `E_EXTRA_MISSING` without the packages for it.
        ResourceError: `E_STORE_UNAVAILABLE` if the database cannot be opened, here or by any method.
    """

    def __init__(self, url: str):
        self._database = Database(url)
        self.name = self._database.name
        self._items, self._counter, self._vectors = _tables()
        with self._database.create(self._items.metadata) as connection:
            _add_pixels(connection)
            values = {"name": "change", "value": 0}
            connection.execute(self._database.insert(self._counter).values(values).on_conflict_do_nothing())

    def write(self, items: Sequence[Item], seen: int | None = None) -> int:
        """Store a batch in one transaction; when this returns, it is durable.

        Args:
            items: latest states; with `deleted`, only id and attributes of the deletion are kept. Their `change` is
                ignored.
            seen: last change number of the state that they were made from; None to replace whatever is there.

        Returns:
            The change number of the last item; those before it have the numbers before it.

        Raises:
            DataError: `E_ITEMS_EMPTY`, `E_ITEMS_REFUSED`; nothing is stored.
            OutdatedError: if one of the items was changed after `seen`; nothing is stored.
        """
        import sqlalchemy as sa

        check_items(items)
        table = self._items
        with self._database.connect(writes=True) as connection:
            step = sa.update(self._counter).values(value=self._counter.c.value + len(items))
            last = connection.execute(step.returning(self._counter.c.value)).scalar_one()  # others wait from here on
            if seen is not None and self._changed(connection, [item.id for item in items], seen):
                raise OutdatedError
            rows = [_row(item, last - len(items) + place) for place, item in enumerate(items, 1)]
            for start in range(0, len(rows), _ROWS):
                self._upsert(connection, table, rows[start : start + _ROWS])
                ids = [row["id"] for row in rows[start : start + _ROWS]]
                connection.execute(sa.delete(self._vectors).where(self._vectors.c.id.in_(ids)))
        return last

    def keep_vectors(self, items: Sequence[Item]) -> None:
        """Store vectors that another model than that of the write has made of items, beside the items as they are.

        Args:
            items: with `change` of the state that was embedded, vector, fingerprint of its model, and pixels.
        """
        names = ("id", "fingerprint", "change", "pixels")
        rows = [{name: getattr(item, name) for name in names} | {"vector": _bytes(item.vector)} for item in items]
        with self._database.connect(writes=True) as connection:
            for start in range(0, len(rows), _ROWS):
                self._upsert(connection, self._vectors, rows[start : start + _ROWS])

    def kept_vectors(self, items: Sequence[Item], fingerprint: str) -> list[Item]:
        """Return those items that `keep_vectors` has stored a vector of this model of, with it."""
        import sqlalchemy as sa

        vectors, found = self._vectors, []
        with self._database.connect() as connection:
            for start in range(0, len(items), _ROWS):
                some = {item.id: item for item in items[start : start + _ROWS]}
                query = sa.select(vectors).where(vectors.c.fingerprint == fingerprint, vectors.c.id.in_(list(some)))
                for row in connection.execute(query).mappings():
                    item = some[row["id"]]
                    if row["change"] == item.change:  # else it is of an earlier state
                        vector = np.frombuffer(row["vector"], "<f4")
                        found.append(replace(item, vector=vector, fingerprint=fingerprint, pixels=row["pixels"]))
        return found

    def changes(self, after: int, limit: int = 10_000) -> list[Item]:
        """Read items changed after a change number, in the order of change numbers, each in its latest state.

        Args:
            after: last change number already seen; 0 for all items.
            limit: number of items; read on from the change number of the last one.

        Returns:
            The items, deleted ones included, without their images.
        """
        import sqlalchemy as sa

        columns = [column for column in self._items.c if column.name != "image"]
        query = sa.select(*columns).where(self._items.c.change > after).order_by(self._items.c.change).limit(limit)
        with self._database.connect() as connection:
            return [_item(row) for row in connection.execute(query).mappings()]

    def get(self, id: str) -> Item | None:
        """Read one item with its image; None if it was never written. A deleted item is returned as such."""
        import sqlalchemy as sa

        with self._database.connect() as connection:
            row = connection.execute(sa.select(self._items).where(self._items.c.id == id)).mappings().first()
        return None if row is None else _item(row)

    def images(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Read the stored images of some items; those without an image are left out."""
        import sqlalchemy as sa

        found: dict[str, bytes] = {}
        with self._database.connect() as connection:
            for start in range(0, len(ids), _ROWS):
                some = self._items.c.id.in_(ids[start : start + _ROWS]) & self._items.c.image.is_not(None)
                found |= dict(connection.execute(sa.select(self._items.c.id, self._items.c.image).where(some)).all())
        return found

    def last_change(self) -> int:
        """Return the number of the last change; 0 if nothing was ever written."""
        import sqlalchemy as sa

        with self._database.connect() as connection:
            return connection.execute(sa.select(self._counter.c.value)).scalar_one()

    def close(self) -> None:
        """Close the connections; the store opens new ones when it is used again."""
        self._database.close()

    def _changed(self, connection: Any, ids: Sequence[str], seen: int) -> bool:
        """Return whether one of these items was changed after a change number."""
        import sqlalchemy as sa

        for start in range(0, len(ids), _ROWS):
            later = self._items.c.id.in_(ids[start : start + _ROWS]) & (self._items.c.change > seen)
            if connection.execute(sa.select(self._items.c.id).where(later).limit(1)).first():
                return True
        return False

    def _upsert(self, connection: Any, table: Any, rows: Sequence[dict[str, Any]]) -> None:
        insert = self._database.insert(table).values(rows)
        keys = [column.name for column in table.primary_key]
        latest = {column.name: insert.excluded[column.name] for column in table.c if column.name not in keys}
        connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=latest))


def _tables() -> tuple[Any, Any, Any]:
    """Return the table of items, the counter of changes, and the table of vectors that later models made."""
    import sqlalchemy as sa

    metadata = sa.MetaData()
    items = sa.Table(
        "items",
        metadata,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("vector", sa.LargeBinary),
        sa.Column("change", sa.BigInteger, nullable=False, unique=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("pixels", sa.Text, nullable=False, server_default=""),
        sa.Column("image", sa.LargeBinary),  # last, so that a row is read without the pages of its image
    )
    counter = sa.Table(
        "counters",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    vectors = sa.Table(
        "vectors",
        metadata,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("change", sa.BigInteger, nullable=False),
        sa.Column("pixels", sa.Text, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    return items, counter, vectors


def _add_pixels(connection: Any) -> None:
    """Add the column of digests to a table that was made without it."""
    import sqlalchemy as sa

    if "pixels" not in {column["name"] for column in sa.inspect(connection).get_columns("items")}:
        connection.exec_driver_sql("ALTER TABLE items ADD COLUMN pixels TEXT NOT NULL DEFAULT ''")


def _row(item: Item, change: int) -> dict[str, Any]:
    kept = item if not item.deleted else Item(item.id, deleted=True, fingerprint=item.fingerprint)
    vector = None if kept.vector is None else _bytes(kept.vector)
    attributes = json.dumps(dict(kept.attributes), ensure_ascii=False, sort_keys=True)
    return {**_fields(kept), "attributes": attributes, "vector": vector, "change": change}


def _bytes(vector: Any) -> bytes:
    return np.asarray(vector, "<f4").tobytes()


def _fields(item: Item) -> dict[str, Any]:
    return {name: getattr(item, name) for name in ("id", "label", "fingerprint", "deleted", "image", "pixels")}


def _item(row: Any) -> Item:
    vector = None if row["vector"] is None else np.frombuffer(row["vector"], "<f4")
    item = Item(row["id"], row["label"], json.loads(row["attributes"]), vector, row["change"], row["fingerprint"])
    return replace(item, image=row.get("image"), deleted=bool(row["deleted"]), pixels=row["pixels"])
