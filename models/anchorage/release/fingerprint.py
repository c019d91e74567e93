"""Identity of a model: the same for the same weights and graph, in whatever order its files hold them."""

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
    """Records what a SavedModel holds, as only its exporter can tell without TensorFlow.

    Two exports of one model differ in the order of variables and in names within the graph, so that the hashes of
    their files say nothing about whether they are the same. They stand in the record all the same: it is valid for
    these very files.

    Args:
        folder: of the SavedModel; gets `identity.json`.
        content: JSON value that is the same for the same model.

    Returns:
        The fingerprint, a SHA-256 in hex.
    """
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    record = {"fingerprint": fingerprint, "files": _hash_parts(Path(folder))}
    (Path(folder) / IDENTITY).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    return fingerprint


def fingerprint_model(folder: str | Path) -> str:
    """Identity of a SavedModel: weights, graph (so also the preprocessing in it) and assets.

    Args:
        folder: the SavedModel's folder; other files in it do not count.

    Returns:
        What `identity.json` says; without one, SHA-256, in hex, over the sorted pairs of relative path and file hash.

    Raises:
        DataError: `E_MODEL_MISSING` if there is no `saved_model.pb` in `folder`; `E_MODEL_CHANGED` if its files are not
            those that `identity.json` was written for.
    """
    folder = Path(folder)
    if not (folder / "saved_model.pb").is_file():
        raise DataError("E_MODEL_MISSING", f"Expected a SavedModel in {folder}. Received: no saved_model.pb there.")
    return _identify(folder, _hash_parts(folder))


def fingerprint_entries(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The same fingerprint from a manifest's entries, without reading the model's files again."""
    return _identify(folder, {name: entry["sha256"] for name, entry in entries.items() if _is_model_part(name)})


def digest_hashes(hashes: Mapping[str, str]) -> str:
    """SHA-256, in hex, over the sorted pairs of name and hash."""
    return hashlib.sha256("".join(f"{name}\0{hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def _identify(folder: Path, hashes: Mapping[str, str]) -> str:
    path = folder / IDENTITY
    if not path.is_file():  # exported by an earlier version, or not by us
        return digest_hashes(hashes)
    try:
        record = json.loads(path.read_bytes())
        if record["files"] == hashes:
            return str(record["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(
        "E_MODEL_CHANGED", f"Expected the SavedModel in {folder} as it was exported. Received: other files than {path}."
    )


def _hash_parts(folder: Path) -> dict[str, str]:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {name: hash_file(folder / name) for name in names if _is_model_part(name)}


def _is_model_part(name: str) -> bool:
    return name.split("/", 1)[0] in _MODEL_PARTS
