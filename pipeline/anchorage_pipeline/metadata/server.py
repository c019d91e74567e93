"""ML Metadata in a database on a server: PostgreSQL, MySQL or MariaDB."""

import os
import time
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from anchorage.errors import ResourceError, causes
from anchorage_pipeline.metadata.artifacts import last_execution
from anchorage_pipeline.metadata.states import NodeState, run_executions, state_of

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb

PASSWORD = "ANCHORAGE_METADATA_PASSWORD"
_PORTS = {"postgresql": 5432, "mysql": 3306}
# What the databases report if another run creates the tables at the same time, and how long to wait for it.
_RACES = ("concurrent connection", "already exists", "duplicate key")
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds
_RESERVED = "anchorage.Reserved"  # type of the executions that stand for those of an earlier store


class Address(NamedTuple):
    """Address of a database; `socket` is "" for a connection by TCP."""

    kind: str
    host: str
    port: int
    socket: str
    user: str
    database: str


def parse_url(url: str) -> Address:
    """Split the URL of a database.

    Args:
        url: `postgresql://USER@HOST:PORT/DATABASE` or `mysql://USER@HOST:PORT/DATABASE`, the latter also for MariaDB.
            The port may be left out. `?socket=PATH` connects by a socket; for PostgreSQL, PATH is its folder.

    Raises:
        ValueError: what is wrong with the URL.
    """
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError(f"the password belongs into the environment variable {PASSWORD}, not into the URL")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    database = unquote(parts.path.strip("/"))
    if parts.scheme not in _PORTS or not parts.username or not database or set(options) - {"socket"}:
        form = "USER@HOST:PORT/DATABASE"
        raise ValueError(
            f"expected postgresql://{form} or mysql://{form}, or at the end ?socket=PATH. Received: {url!r}"
        )
    port, host = parts.port or _PORTS[parts.scheme], parts.hostname or "localhost"
    return Address(parts.scheme, host, port, options.get("socket", ""), unquote(parts.username), database)


class ServerMetadata:
    """A store in a database that several machines and experiments may share; an experiment's name identifies it there.

    Args:
        url: as for `parse_url`. The password is in the environment variable `ANCHORAGE_METADATA_PASSWORD`: a release
            records the experiment file, so a password in it would be public.
    """

    def __init__(self, url: str):
        self._address, self._url = parse_url(url), url
        self.encoded = self._address.kind == "postgresql"  # ML Metadata quotes backslashes wrongly there
        self._reader: MetadataStore | None = None  # the connection of the thread that watches a run

    def __str__(self) -> str:
        return self._url

    @property
    def config(self) -> "pb.ConnectionConfig":
        from ml_metadata.proto import metadata_store_pb2 as pb

        config, address, password = pb.ConnectionConfig(), self._address, os.environ.get(PASSWORD, "")
        if address.kind == "mysql":
            if address.socket:  # ML Metadata ends the process if it is given both
                config.mysql.socket = address.socket
            else:
                config.mysql.host, config.mysql.port = address.host, address.port
            config.mysql.database, config.mysql.user, config.mysql.password = address.database, address.user, password
        else:
            server = config.postgresql
            server.host, server.port = address.socket or address.host, str(address.port)
            server.dbname, server.user, server.password = address.database, address.user, password
        return config

    def exists(self) -> bool:
        return True

    def open(self) -> "MetadataStore":
        """Connect to the database; creates it and its tables if needed.

        Raises:
            ResourceError: E_METADATA_SERVER.
        """
        from ml_metadata.metadata_store import MetadataStore

        for pause in (*_PAUSES, None):
            try:
                return MetadataStore(self.config)
            except Exception as error:  # ML Metadata's own, or a RuntimeError of its native code
                if pause is None or not any(words in str(error) for words in _RACES):
                    raise self.fault(error) from error
                time.sleep(pause)
        raise AssertionError  # the last attempt returns or raises

    def prepare(self, artifacts: str | PathLike) -> None:
        store = self.open()
        missing = last_execution(artifacts) - _newest(store)
        if missing > 0:
            from ml_metadata.proto import metadata_store_pb2 as pb

            kind = store.put_execution_type(pb.ExecutionType(name=_RESERVED))
            store.put_executions([pb.Execution(type_id=kind) for _ in range(missing)])

    def read_states(self, run: str) -> dict[str, NodeState] | None:
        from ml_metadata.errors import StatusError

        try:
            self._reader = self._reader or self.open()
            return {node: state_of(execution) for node, execution in run_executions(self._reader, run).items()}
        except (StatusError, ResourceError):
            return None

    def caused(self, error: BaseException) -> bool:
        """Whether ML Metadata raised the error, or one of its causes."""
        from ml_metadata.errors import StatusError

        return any(isinstance(cause, StatusError) for cause in causes(error))

    def fault(self, error: BaseException) -> ResourceError:
        """The error to report for one of ML Metadata's."""
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return ResourceError(
            "E_METADATA_SERVER",
            f"Expected the metadata database at {self}. Received: {reason}. Check that the server runs, that the user "
            f"may write to the database, and that {PASSWORD} is set; then run the same command again.",
        )


def _newest(store: "MetadataStore") -> int:
    """The highest id of an execution; 0 if there is none."""
    from ml_metadata.metadata_store import ListOptions, OrderByField

    options = ListOptions(limit=1, order_by=OrderByField.ID, is_asc=False)
    return max((execution.id for execution in store.get_executions(list_options=options)), default=0)
