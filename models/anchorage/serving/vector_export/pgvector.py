"""Vectors as a table of PostgreSQL with the extension pgvector."""

import json
from typing import Any

import numpy as np

from anchorage.errors import ResourceError, UsageError
from anchorage.extras import needs_extra
from anchorage.items import Item
from anchorage.serving.vector_export import Rows

_EXPORTS = "anchorage_exports"  # table name -> what it contains
_NEW = "_new"  # ending of the table that is being filled
_LONGEST = 60 - len(_NEW)  # PostgreSQL cuts names at 63 bytes


class PgvectorTable:
    """A table with `id` (primary key), `label`, `attributes` (jsonb) and `embedding` (vector).

    The rows go to a second table, which replaces the first when it is complete: readers never see a part of an export.
    The table `anchorage_exports` has the state; each batch is in one transaction with it. No index is made: HNSW and
    IVFFlat lose neighbors, and how many is for whoever queries to choose.

    Args:
        url: `postgresql://...`; the extension is created if the user may do so.
        table: name of the table.

    Raises:
        UsageError: `E_EXTRA_MISSING`, `E_STORE_URL` for another kind of URL, `E_OUTPUT_EXISTS` if there is a table of
            this name that no export made, `E_OUTPUT_PLACE` for a name that is too long.
        ResourceError: `E_STORE_UNAVAILABLE` if the database cannot be reached, or refuses.
    """

    def __init__(self, url: str, table: str):
        with needs_extra("postgresql", "A table of PostgreSQL"):
            import psycopg
            from pgvector.psycopg import register_vector
        if not url.startswith(("postgresql://", "postgres://")):
            kind = url.partition("://")[0] if "://" in url else "no URL"  # the rest may be a password
            raise UsageError("E_STORE_URL", f"Expected `postgresql://USER@HOST/DATABASE`. Received: {kind:.20}")
        if not 0 < len(table.encode()) <= _LONGEST:
            raise UsageError(
                "E_OUTPUT_PLACE", f"Expected a table name of 1 to {_LONGEST} bytes. Received: {len(table.encode())}"
            )
        self._table = table
        self._errors = psycopg.Error
        with self._reported():
            self._connection = psycopg.connect(url, autocommit=True)
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(self._connection)

    def begin(self, rows: Rows) -> int:
        self._rows = rows
        with self._reported(), self._connection.transaction():
            self._run(
                f"CREATE TABLE IF NOT EXISTS {_EXPORTS} "
                "(name text PRIMARY KEY, complete text NOT NULL, identity text NOT NULL, written bigint NOT NULL)"
            )
            state = self._run(
                f"SELECT complete, identity, written FROM {_EXPORTS} WHERE name = %s FOR UPDATE", self._table
            ).fetchone()
            exists = self._exists(self._table)
            if state is None and (exists or self._exists(self._table + _NEW)):
                raise UsageError(
                    "E_OUTPUT_EXISTS", f"Expected a new table, or one of an earlier export. {self._table!r} is another"
                )
            complete, identity, written = state or ("", "", 0)
            if complete == rows.identity and exists and self._count() == rows.total:
                return rows.total
            if identity == rows.identity and self._exists(self._table + _NEW) and self._count(_NEW) == written:
                return written
            self._run(f"DROP TABLE IF EXISTS {self._name(_NEW)}")
            self._run(
                f"CREATE TABLE {self._name(_NEW)} (id text PRIMARY KEY, label text NOT NULL, "
                f"attributes jsonb NOT NULL, embedding vector({rows.dimension}) NOT NULL)"
            )
            self._run(
                f"INSERT INTO {_EXPORTS} VALUES (%s, %s, %s, 0) "
                "ON CONFLICT (name) DO UPDATE SET identity = excluded.identity, written = 0",
                self._table,
                complete,
                rows.identity,
            )
        return 0

    def write(self, start: int, batch: list[Item]) -> None:
        with self._reported(), self._connection.transaction(), self._connection.cursor() as cursor:
            with cursor.copy(
                f"COPY {self._name(_NEW)} (id, label, attributes, embedding) FROM STDIN WITH (FORMAT BINARY)"
            ) as copy:
                copy.set_types(["text", "text", "jsonb", "vector"])
                for item in batch:
                    attributes = _as_jsonb(dict(item.attributes))
                    copy.write_row((item.id, item.label, attributes, np.asarray(item.vector, np.float32)))
            self._run(f"UPDATE {_EXPORTS} SET written = %s WHERE name = %s", start + len(batch), self._table)

    def finish(self, total: int) -> None:
        with self._reported(), self._connection.transaction():
            if self._exists(self._table + _NEW):
                self._run(f"DROP TABLE IF EXISTS {self._name()}")
                self._run(f"ALTER TABLE {self._name(_NEW)} RENAME TO {_quoted(self._table)}")
                self._run(f"UPDATE {_EXPORTS} SET complete = identity WHERE name = %s", self._table)
        self._connection.close()

    def _run(self, statement: str, *values: Any) -> Any:
        return self._connection.execute(statement.encode(), values or None)  # a name may have a "%", too

    def _exists(self, table: str) -> bool:
        return self._run("SELECT to_regclass(%s)", _quoted(table)).fetchone()[0] is not None

    def _count(self, ending: str = "") -> int:
        return self._run(f"SELECT count(*) FROM {self._name(ending)}").fetchone()[0]

    def _name(self, ending: str = "") -> str:
        return _quoted(self._table + ending)

    def _reported(self) -> Any:
        return _Reported(self._errors)


class _Reported:
    """Turns errors of the database into the project's."""

    def __init__(self, errors: type[Exception]):
        self._errors = errors

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, _traceback: Any) -> None:
        if isinstance(error, self._errors):
            raise ResourceError(
                "E_STORE_UNAVAILABLE", f"Expected a PostgreSQL with pgvector that can be written. Received: {error}"
            ) from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _as_jsonb(value: dict[str, str]) -> Any:
    from psycopg.types.json import Jsonb

    return Jsonb(value, lambda content: json.dumps(content, ensure_ascii=False))
