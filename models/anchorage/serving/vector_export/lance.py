"""Vectors as a table of LanceDB."""

from pathlib import Path

import numpy as np

from anchorage.errors import UsageError
from anchorage.extras import needs_extra
from anchorage.items import Item
from anchorage.serving.vector_export import Rows
from anchorage.serving.vector_export.files import arrow_table

_IDENTITY = b"anchorage.identity"


class LanceTable:
    """A table with `id`, `label`, one text column per attribute, and `vector`.

    Each batch is one version of the table, so that the number of rows says where to resume. The metadata of its schema
    say which gallery it belongs to. Readers see the rows of an export as they come.

    Args:
        folder: the database.
        table: name of the table.

    Raises:
        UsageError: `E_EXTRA_MISSING`; `E_OUTPUT_EXISTS` if there is a table of this name that no export made.
    """

    def __init__(self, folder: Path, table: str):
        with needs_extra("lancedb", "A LanceDB table"):
            import lancedb
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
        return self._table.count_rows() if identity == rows.identity.encode() else self._create()

    def write(self, start: int, batch: list[Item]) -> None:
        self._table.add(arrow_table(batch, self._rows).replace_schema_metadata({_IDENTITY: self._rows.identity}))

    def finish(self, total: int) -> None:
        """Do nothing: the table has as many rows as the gallery."""

    def _create(self) -> int:
        none = Item("", vector=np.zeros(self._rows.dimension, np.float32))
        schema = arrow_table([none], self._rows).schema.with_metadata({_IDENTITY: self._rows.identity})
        self._table = self._database.create_table(self._name, schema=schema, mode="overwrite")
        return 0
