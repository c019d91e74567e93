"""The queries of a search: image files, or the rows of a table of vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anchorage.data.vectors import VectorTable
from anchorage.errors import UsageError


class Query(NamedTuple):
    """A query by an image or a vector.

    Attributes:
        name: the path of the image, or the id of the row.
        content: the bytes of the image file, or the vector.
        picture: the file that shows the query; None if no column of the table names it.
    """

    name: str
    content: bytes | np.ndarray
    picture: Path | None


def read_queries(paths: Sequence[str], *, vectors: bool) -> list[Query]:
    """Read the queries.

    Args:
        paths: image files; for a release of vectors tables of vectors, each row of which is a query.
        vectors: whether the release takes vectors.

    Raises:
        UsageError: E_IMAGE_MISSING, if a file does not exist.
        DataError: what `VectorTable` raises.
    """
    exists = Path.exists if vectors else Path.is_file  # vectors may be a folder of Arrow files
    if missing := [path for path in paths if not exists(Path(path))]:
        kind = "tables of vectors" if vectors else "image files"
        raise UsageError("E_IMAGE_MISSING", f"Expected {kind}. Found nothing at {', '.join(missing)}")
    if not vectors:
        return [Query(path, Path(path).read_bytes(), Path(path)) for path in paths]
    return [query for path in paths for query in _read_table(VectorTable(path))]


def _read_table(table: VectorTable) -> list[Query]:
    """The rows of a table; the paths of pictures are relative to its folder."""
    values = (row for matrix, _ in table.vectors() for row in matrix)
    return [
        Query(row["id"], vector, table.path.parent / row["path"] if row.get("path") else None)
        for row, vector in zip(table.rows(), values, strict=True)
    ]
