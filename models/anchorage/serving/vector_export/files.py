"""Vectors as a folder of Parquet or JSON Lines files, each with the next rows."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.disk import make_folder
from anchorage.errors import UsageError
from anchorage.files import remove_leftovers, replace_file
from anchorage.items import Item
from anchorage.serving.vector_export import Rows

MARK = "_EXPORT"  # without a suffix, as services read every file with one


class VectorFiles:
    """Files `vectors-<first row>.parquet`, or `.json`, and `_EXPORT`, which says what they contain.

    Parquet: the text columns `id` and `label`, one of each attribute ("" where an item lacks it; `attribute_id` for one
    that is called as another column), and `vector`, a fixed-size list of float32.

    JSON Lines, as Vertex AI Vector Search reads a folder: `id`, `embedding`, `restricts` with label and attributes to
    filter by (`attribute_label` for one that is called "label"), and both again as `embedding_metadata`, which results
    return. Other services read the same lines.

    Args:
        folder: created if missing.
        kind: "parquet" or "jsonl".

    Raises:
        UsageError: `E_OUTPUT_EXISTS` if the folder has other content.
        ResourceError: `E_NOT_WRITABLE`.
    """

    def __init__(self, folder: Path, kind: str):
        self._folder = folder
        self._suffix = {"parquet": ".parquet", "jsonl": ".json"}[kind]
        self._mark: dict[str, Any] = {}

    def begin(self, rows: Rows) -> int:
        self._rows = rows
        mark = self._folder / MARK
        if self._folder.is_file() or (not mark.is_file() and self._folder.exists() and any(self._folder.iterdir())):
            raise UsageError(
                "E_OUTPUT_EXISTS", f"Expected a new folder, or one of an earlier export. {self._folder} is another"
            )
        wanted = {"identity": rows.identity, "suffix": self._suffix, "total": rows.total}
        found = _read_mark(mark)
        names = found.get("files")
        if wanted.items() <= found.items() and names is not None and all((self._folder / n).is_file() for n in names):
            self._mark = found
        else:
            make_folder(self._folder)
            self._mark = {**wanted, "rows": 0, "files": []}
            self._write_mark()
        remove_leftovers(self._folder)
        for path in self._folder.glob("vectors-*"):  # of another gallery, also after an export that was killed here
            if path.name not in self._mark["files"]:
                path.unlink()
        return self._mark["rows"]

    def write(self, start: int, batch: list[Item]) -> None:
        encode = _parquet if self._suffix == ".parquet" else _json_lines
        name = f"vectors-{start:012}{self._suffix}"
        replace_file(self._folder / name, encode(batch, self._rows))
        self._mark["rows"] = start + len(batch)
        self._mark["files"].append(name)
        self._write_mark()

    def finish(self, total: int) -> None:
        """Do nothing: the mark has the number of rows."""

    def _write_mark(self) -> None:
        replace_file(self._folder / MARK, json.dumps(self._mark, indent=1).encode())


def _read_mark(path: Path) -> dict[str, Any]:
    """Return the content of a mark; empty if there is none, or a damaged one, whose folder is written anew."""
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def column_names(attributes: Sequence[str], reserved: Sequence[str]) -> dict[str, str]:
    """Name a column for each attribute, none as one of the reserved columns."""
    taken, names = {name.lower() for name in reserved}, {}
    for attribute in attributes:
        name = attribute
        while name.lower() in taken:
            name = f"attribute_{name}"
        names[attribute] = name
        taken.add(name.lower())
    return names


def arrow_table(batch: Sequence[Item], rows: Rows) -> Any:
    """Return a batch as an Arrow table with the columns id, label, attributes and vector."""
    import pyarrow as pa

    columns: dict[str, Any] = {"id": [item.id for item in batch], "label": [item.label for item in batch]}
    for attribute, name in column_names(rows.attributes, ("id", "label", "vector")).items():
        columns[name] = [item.attributes.get(attribute, "") for item in batch]
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    numbers = np.concatenate([np.asarray(item.vector, np.float32) for item in batch])
    arrays["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(numbers), rows.dimension)
    return pa.table(arrays)


def _parquet(batch: Sequence[Item], rows: Rows) -> bytes:
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    parquet.write_table(arrow_table(batch, rows), buffer)
    return buffer.getvalue()


def _json_lines(batch: Sequence[Item], rows: Rows) -> bytes:
    lines, names = [], column_names(rows.attributes, ("label",))
    for item in batch:
        named = {"label": item.label, **{name: item.attributes.get(own, "") for own, name in names.items()}}
        lines.append(
            {
                "id": item.id,
                "embedding": np.asarray(item.vector, np.float64).tolist(),
                "restricts": [{"namespace": name, "allow": [value]} for name, value in named.items() if value],
                "embedding_metadata": {"label": item.label, "attributes": dict(item.attributes)},
            }
        )
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()
