"""Sampled queries of a service: their embeddings without images, beside the items in the same database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.errors import UsageError
from anchorage.release.database import Database
from anchorage.release.items import find_store

if TYPE_CHECKING:
    from anchorage.release.reading import Release

KEPT = 10_000  # newest queries of a database: older ones are deleted


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class SampledQuery:
    """A query as it was answered.

    Args:
        time: seconds since 1970.
        version: version of the release that answered.
        fingerprint: fingerprint of its model.
        vector: `(D,)` float32 embedding of unit length.
        distance: cosine distance of the nearest item, in [0, 2]; None if there was none.
        unknown: whether it was reported as unknown; None if the release cannot tell.
    """

    time: float
    version: int
    fingerprint: str
    vector: np.ndarray
    distance: float | None
    unknown: bool | None


class QueryStore:
    """A table of sampled queries, of which the newest are kept.

    Args:
        url: as for `ItemStore`.

    Raises:
        UsageError: `E_STORE_URL`, `E_EXTRA_MISSING`.
        ResourceError: `E_STORE_UNAVAILABLE`, here or by any method.
    """

    def __init__(self, url: str):
        self._database = Database(url)
        self.name = self._database.name
        self._queries = _table()
        with self._database.create(self._queries.metadata):
            pass

    def write(self, queries: Sequence[SampledQuery]) -> None:
        """Store queries, and delete all but the newest `KEPT` of the database."""
        import sqlalchemy as sa

        if not queries:
            return
        table = self._queries
        rows = [{**vars(query), "vector": np.asarray(query.vector, "<f4").tobytes()} for query in queries]
        newest = sa.select(table.c.number).order_by(table.c.time.desc(), table.c.number.desc()).limit(KEPT)
        with self._database.connect(writes=True) as connection:
            connection.execute(sa.insert(table), rows)
            connection.execute(sa.delete(table).where(table.c.number.not_in(newest.scalar_subquery())))

    def read(self, fingerprint: str, newest: int = KEPT) -> list[SampledQuery]:
        """Read the newest queries that were embedded by a model, oldest first."""
        import sqlalchemy as sa

        table = self._queries
        columns = [column for column in table.c if column.name != "number"]
        query = sa.select(*columns).where(table.c.fingerprint == fingerprint)
        query = query.order_by(table.c.time.desc(), table.c.number.desc()).limit(newest)
        with self._database.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [SampledQuery(**{**row, "vector": np.frombuffer(row["vector"], "<f4")}) for row in reversed(rows)]

    def close(self) -> None:
        """Close the connections."""
        self._database.close()


def read_samples(release: "Release", store: str | None = None) -> tuple[np.ndarray, list[float], str]:
    """Read the sampled queries that the model of a release embedded, oldest first.

    Args:
        release: the release.
        store: URL of the database; None for the file beside the releases.

    Returns:
        `(N, D)` embeddings, their times in seconds since 1970, and the name of the database.

    Raises:
        UsageError: E_QUERIES_MISSING if there is no file; E_STORE_URL, E_EXTRA_MISSING.
        ResourceError: E_STORE_UNAVAILABLE.
    """
    url = store or find_store(release.folder)
    if url is None:
        raise UsageError(
            "E_QUERIES_MISSING",
            f"Expected sampled queries of {release.folder}. Found no database of them: serve with `anchorage serve "
            "--sample-queries 100`, name its database with --store, or give a table of embeddings with --queries",
        )
    opened = QueryStore(url)
    samples = opened.read(release.model_fingerprint)
    opened.close()
    vectors = (
        np.stack([sample.vector for sample in samples])
        if samples
        else np.empty((0, release.manifest["index"]["dimension"]))
    )
    return vectors, [sample.time for sample in samples], opened.name


def _table() -> Any:
    import sqlalchemy as sa

    return sa.Table(
        "queries",
        sa.MetaData(),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("time", sa.Float, nullable=False, index=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("distance", sa.Float),
        sa.Column("unknown", sa.Boolean),
    )
