"""A database of items or of sampled queries: SQLite or PostgreSQL, with writes that survive a crash."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anchorage.errors import ResourceError, UsageError
from anchorage.extras import needs_extra

_WAIT_SECONDS = 30.0  # for another writer
# A PostgreSQL that has vanished without a word is given up: libpq would wait for minutes, or forever.
_GIVES_UP = {
    "connect_timeout": 10,  # seconds
    "tcp_user_timeout": 30_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
}
_CREATION = 0x616E63686F72  # key of the lock under which tables are created


class Database:
    """Connections to a database, which several processes can read and write at once.

    Args:
        url: `sqlite:///PATH`, created if missing, or `postgresql://USER:PASSWORD@HOST/DATABASE`.

    Attributes:
        name: the URL without password.

    Raises:
        UsageError: `E_STORE_URL` for another kind of URL, `E_EXTRA_MISSING` without the packages for it.
        ResourceError: `E_STORE_UNAVAILABLE` if the database cannot be opened, here or by any method.
    """

    def __init__(self, url: str):
        self._engine, self.name = _open(url)

    @contextmanager
    def create(self, metadata: Any) -> Iterator[Any]:
        """Create the tables that are missing, and yield the connection of this transaction."""
        with self.connect(writes=True) as connection:
            if connection.dialect.name == "postgresql":  # others may create the tables at the same time
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATION})")
            metadata.create_all(connection)
            yield connection

    @contextmanager
    def connect(self, writes: bool = False) -> Iterator[Any]:
        """Yield a connection in a transaction, which is committed at the end."""
        from sqlalchemy.exc import DBAPIError

        try:
            with self._engine.execution_options(writes=writes).begin() as connection:
                yield connection
        except DBAPIError as error:
            raise ResourceError(
                "E_STORE_UNAVAILABLE", f"Expected to read and write the items in {self.name}. Received: {error.orig}"
            ) from error

    def insert(self, table: Any) -> Any:
        """Return an insert statement of this database's dialect, which knows `on_conflict_do_update`."""
        from sqlalchemy.dialects import postgresql, sqlite

        return (sqlite if self._engine.dialect.name == "sqlite" else postgresql).insert(table)

    def close(self) -> None:
        """Close the connections; new ones are opened when the database is used again."""
        self._engine.dispose()


def _open(url: str) -> tuple[Any, str]:
    """Return the engine, and the URL without password."""
    with needs_extra("serve", "A database of items"):
        import sqlalchemy as sa
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        parsed = None
    kind = parsed.get_backend_name() if parsed is not None else ""
    if parsed is None or kind not in ("sqlite", "postgresql") or not parsed.database or parsed.database == ":memory:":
        shown = _shown(parsed) if parsed is not None else url.partition(":")[0]
        raise UsageError(
            "E_STORE_URL", f"Expected `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`. Received: {shown}"
        )
    if kind == "sqlite":
        engine = sa.create_engine(parsed.set(drivername="sqlite"), connect_args={"timeout": _WAIT_SECONDS})
    else:
        with needs_extra("postgresql", "A database of PostgreSQL"):
            parameters = {name: value for name, value in _GIVES_UP.items() if name not in parsed.query}
            address = parsed.set(drivername="postgresql+psycopg")
            engine = sa.create_engine(address, pool_pre_ping=True, connect_args=parameters)
    sa.event.listen(engine, "connect", _prepare_sqlite if kind == "sqlite" else _prepare_postgresql)
    if kind == "sqlite":
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine, _shown(parsed)


def _shown(url: Any) -> str:
    """Return a URL without password, which may also be one of its parameters."""
    return url.difference_update_query(["password"]).render_as_string(hide_password=True)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin in `_begin_sqlite`, not before the first write
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ResourceError(
            "E_STORE_UNAVAILABLE", f"Expected a file system on which SQLite can use WAL. Received: mode {mode}"
        )
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Any) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('synchronous_commit')")
        if cursor.fetchone() in (("off",), ("local",)):
            cursor.execute("SET synchronous_commit TO on")
    connection.commit()
