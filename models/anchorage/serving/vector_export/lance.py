"""Vectors as a table of LanceDB."""

import re
from itertools import islice
from pathlib import Path

import numpy as np

from anchorage.disk import make_folder
from anchorage.errors import UsageError
from anchorage.extras import needs_extra
from anchorage.items import Item
from anchorage.serving.vector_export import Rows
from anchorage.serving.vector_export.files import arrow_table

_IDENTITY = b"anchorage.identity"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class LanceTable:
    """A table with `id`, `label`, one text column per attribute, and `vector`.

    Each batch is one version of the table, so that the number of rows says where to resume, if they are the first ones
    of the gallery; else all are written again. The metadata of its schema say which gallery it belongs to. Readers see
    the rows of an export as they come.

    Args:
        folder: the database.
        table: name of the table.

    Raises:
        UsageError: `E_EXTRA_MISSING`; `E_OUTPUT_EXISTS` if there is a table of this name that no export made;
            `E_OUTPUT_PLACE` for a name that LanceDB refuses.
        ResourceError: `E_NOT_WRITABLE`.
    """

    def __init__(self, folder: Path, table: str):
        with needs_extra("lancedb", "A LanceDB table"):
            import lancedb
        if not _NAME.fullmatch(table):
            raise UsageError(
                "E_OUTPUT_PLACE", f"Expected a table name of letters, digits, '_', '-' and '.'. Received: {table!r:.60}"
            )
        make_folder(folder)
        self._database = lancedb.connect(folder)
        self._name = table

    def begin(self, rows: Rows) -> int:
        self._rows = rows
        try:
            self._table = self._database.open_table(self._name)
        except ValueError:  # there is no such table
            return self._create()
        identity = (self._table.schema.metadata or {}).get(_IDENTITY)
        if identity is None:
            raise UsageError(
                "E_OUTPUT_EXISTS", f"Expected a new table, or one of an earlier export. {self._name!r} is another"
            )
        if identity != rows.identity.encode():
            return self._create()
        there = self._table.search().select(["id"]).limit(self._table.count_rows() or 1).to_arrow()["id"].to_pylist()
        expected = {item.id for item in islice(rows.read(0), len(there))}
        return len(there) if len(there) == len(expected) and expected == set(there) else self._create()

    def write(self, start: int, batch: list[Item]) -> None:
        self._table.add(arrow_table(batch, self._rows).replace_schema_metadata({_IDENTITY: self._rows.identity}))

    def finish(self, total: int) -> None:
        """Do nothing: the table has as many rows as the gallery."""

    def _create(self) -> int:
        none = Item("", vector=np.zeros(self._rows.dimension, np.float32))
        schema = arrow_table([none], self._rows).schema.with_metadata({_IDENTITY: self._rows.identity})
        self._table = self._database.create_table(self._name, schema=schema, mode="overwrite")
        return 0
