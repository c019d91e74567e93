"""Fingerprints of models, which depend on weights and graph but not on the layout of the files."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anchorage.errors import DataError
from anchorage.files import hash_file

IDENTITY = "identity.json"  # beside `saved_model.pb`

_MODEL_PARTS = ("saved_model.pb", "variables", "assets")


def write_identity(folder: str | Path, content: Any) -> str:
    """Write the fingerprint of a SavedModel, with the hashes of its files, to `identity.json`.

    Two exports of one model differ in the order of variables and in names of the graph, and so in the hashes of their
    files. The hashes are recorded to detect changes of the files after the export.

    Args:
        folder: folder of the SavedModel, where `identity.json` is written.
        content: JSON value that identifies the model.

    Returns:
        The fingerprint, a SHA-256 in hex.
    """
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    record = {"fingerprint": fingerprint, "files": _hash_parts(Path(folder))}
    (Path(folder) / IDENTITY).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    return fingerprint


def fingerprint_model(folder: str | Path) -> str:
    """Return the fingerprint of a SavedModel: of its weights, graph (with preprocessing) and assets.

    Args:
        folder: folder of the SavedModel; other files in it are ignored.

    Returns:
        The fingerprint in `identity.json`; without this file, the SHA-256, in hex, of the sorted pairs of relative path
        and file hash.

    Raises:
        DataError: `E_MODEL_MISSING` if there is no `saved_model.pb` in `folder`; `E_MODEL_CHANGED` if its files differ
            from the hashes in `identity.json`.
    """
    folder = Path(folder)
    if not (folder / "saved_model.pb").is_file():
        raise DataError("E_MODEL_MISSING", f"Expected a SavedModel in {folder}. Received: no saved_model.pb there.")
    return _identify(folder, _hash_parts(folder))


def fingerprint_entries(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the fingerprint from the entries of a manifest, without reading the files of the model."""
    return _identify(folder, {name: entry["sha256"] for name, entry in entries.items() if _is_model_part(name)})


def digest_hashes(hashes: Mapping[str, str]) -> str:
    """Return the SHA-256, in hex, of the sorted pairs of name and hash."""
    return hashlib.sha256("".join(f"{name}\0{hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def _identify(folder: Path, hashes: Mapping[str, str]) -> str:
    path = folder / IDENTITY
    if not path.is_file():  # exported by an earlier version or by another program
        return digest_hashes(hashes)
    try:
        record = json.loads(path.read_bytes())
        if record["files"] == hashes:
            return str(record["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(
        "E_MODEL_CHANGED", f"Expected the files listed in {path} for the SavedModel in {folder}. Received: other files."
    )


def _hash_parts(folder: Path) -> dict[str, str]:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name: hash_file(folder / name) for name in names if _is_model_part(name)}


def _is_model_part(name: str) -> bool:
    return name.split("/", 1)[0] in _MODEL_PARTS
