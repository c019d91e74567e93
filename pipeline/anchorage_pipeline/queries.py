"""The queries of a search: image files, or the rows of a table of vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anchorage.data.vectors import VectorTable
from anchorage.errors import UsageError


def read_queries(paths: Sequence[str], *, vectors: bool) -> tuple[list[str], list[bytes | np.ndarray]]:
    """Names and contents of the queries.

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
        return list(paths), [Path(path).read_bytes() for path in paths]
    names: list[str] = []
    contents: list[bytes | np.ndarray] = []
    for path in paths:
        table = VectorTable(path)
        names += [row["id"] for row in table.rows()]
        contents += [values for matrix, _ in table.vectors() for values in matrix]
    return names, contents
