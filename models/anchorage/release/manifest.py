"""The manifest of a release: SHA-256 and size of every file, and metadata of model and index."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from anchorage.errors import DataError, UsageError
from anchorage.files import hash_file
from anchorage.release.fingerprint import digest_hashes, fingerprint_entries
from anchorage.storage import MissingObjectError, is_remote, join, parent, read_bytes

FORMAT = 1
NAME = "manifest.json"
REQUIRED = ("saved_model.pb", "index/index.json", "gallery.parquet")

TEXT = "text"  # folder of the text encoder, where the release has one
_SEARCH_PARTS = ("index", "gallery.parquet", "labels.json", "thresholds.json", "calibration.json", TEXT)
_PICKLES = (".pkl", ".pickle")
LAST_VERSION = 10**18 - 1  # TF Serving reads versions as 64-bit integers
_FIELDS = {
    "version": int,
    "created": str,
    "model_fingerprint": str,
    "index": dict,
    "libraries": dict,
    "facts": dict,
    "files": dict,
}
_SHA256 = re.compile("[0-9a-f]{64}")


def content(model_fingerprint: str, hashes: Mapping[str, str]) -> str:
    """Return the identity of what determines search results: model, index, gallery and thresholds.

    Args:
        model_fingerprint: fingerprint of the model.
        hashes: SHA-256 of the files of the release by their relative paths; other files are ignored.
    """
    parts = {name: hashes[name] for name in hashes if is_search_part(name)}
    return digest_hashes({**parts, "": model_fingerprint})


def is_search_part(name: str) -> bool:
    """Return whether search uses this file, in addition to those of the model."""
    return name.split("/", 1)[0] in _SEARCH_PARTS


def seal(manifest: Mapping[str, Any]) -> bytes:
    """Encode a manifest as JSON, with `bundle`, the SHA-256 of all other fields."""
    return json.dumps({"bundle": _bundle(manifest), **manifest}, indent=1, sort_keys=True, allow_nan=False).encode()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read and validate the manifest of a release at a path or a URI.

    Raises:
        UsageError: if there is no release at `folder`.
        DataError: if the manifest is damaged or of another format.
    """
    try:
        content = _read_stored(str(folder)) if is_remote(folder) else _read_local(Path(folder))
        manifest = json.loads(content, parse_constant=_reject_constant)
        if not (isinstance(manifest, dict) and {"bundle", "format"} <= set(manifest)):
            raise ValueError("it is not an object with `bundle` and `format`")
        changed = manifest.pop("bundle") != (bundle := _bundle(manifest))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder, f"{NAME} cannot be read ({error})") from error
    if changed:
        raise damaged(folder, f"{NAME} was changed after publishing")
    if manifest["format"] != FORMAT:
        raise damaged(folder, f"{NAME} has format {manifest['format']!r:.40}, this version reads {FORMAT}")
    if fault := _field_fault(manifest):
        raise damaged(folder, f"{NAME} in which {fault}")
    return {"bundle": bundle, **manifest}


def _read_local(folder: Path) -> bytes:
    path = folder / NAME
    if not folder.exists():
        raise _missing(folder)
    if not path.is_file():
        raise ValueError("it is not a file" if path.exists() else "it is missing")
    return path.read_bytes()


def _read_stored(uri: str) -> bytes:
    try:
        return read_bytes(join(uri, NAME))
    except MissingObjectError as error:
        raise _missing(uri) from error


def _missing(folder: str | Path) -> UsageError:
    return UsageError("E_RELEASE_MISSING", f"Expected a release in {folder}. Received: no such folder.")


def verify(folder: Path, manifest: Mapping[str, Any], address: str) -> None:
    """Verify every file of a release against its manifest.

    Args:
        folder: the files.
        manifest: the manifest.
        address: path or URI of the release, for messages.

    Raises:
        DataError: `E_RELEASE_DAMAGED` with the first file that is missing,
            changed, not in the manifest or not allowed; `E_RELEASE_MIXED` if
            the index was made with another model.
    """
    entries = manifest["files"]
    if fault := name_fault(entries):
        raise damaged(address, fault)
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise damaged(address, f"{path.relative_to(folder)} is not a plain file")
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    if fault := listing_fault(entries, sizes):
        raise damaged(address, fault)
    for name, entry in entries.items():
        try:
            same = hash_file(folder / name) == entry["sha256"]
        except OSError as error:
            raise damaged(address, f"{name} cannot be read ({error})") from error
        if not same:
            raise damaged(address, f"{name} differs from its hash in the manifest")
    check_pair(fingerprint_entries(folder, entries), manifest["model_fingerprint"], "manifest")
    check_pair(manifest["model_fingerprint"], read_index_facts(folder / "index").get("model_fingerprint"), "index")


def listing_fault(entries: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """Describe the first file that is missing, not in the manifest or of another size; "" if there is none.

    Args:
        entries: the files of the manifest.
        sizes: bytes of each file that is there, also of the manifest.
    """
    if missing := sorted(set(entries) - set(sizes)):
        return f"{missing[0]} is missing"
    if foreign := sorted(set(sizes) - set(entries) - {NAME}):
        return f"{foreign[0]} is not in its manifest"
    for name, entry in entries.items():
        if sizes[name] != entry["size"]:
            return f"{name} differs from its size in the manifest: {sizes[name]} bytes, not {entry['size']}"
    return ""


def name_fault(names: Iterable[str]) -> str:
    """Describe what is wrong with the paths of a release's files; "" if they are valid.

    A path must stay inside the release and must not be a pickle, and the required files must exist.
    """
    names = list(names)
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name or "\\" in name:
            return f"the path {name!r} does not stay inside the release"
        if path.suffix.lower() in _PICKLES:
            return f"{name} is a pickle, which can run code when it is opened"
    absent = [name for name in REQUIRED if name not in names]
    return f"{absent[0]} is missing" if absent else ""


def check_pair(model: str, other: str | None, owner: str) -> None:
    """Raise `DataError` unless the `owner`, such as the index, was made with the model of this fingerprint."""
    if model != other:
        raise DataError(
            "E_RELEASE_MIXED",
            f"Expected model and {owner} of one release. Received: model {model[:12]}, {owner} made with "
            f"{other[:12] if other else 'an unknown model'}. `anchorage run` creates a consistent release.",
        )


def read_index_facts(folder: Path) -> dict[str, Any]:
    """Read `index.json`: kind, rows, dimension, distance, recall, and the fingerprint of the model."""
    try:
        facts = json.loads((folder / "index.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("E_INDEX_MISSING", f"Expected index.json in {folder}. Received: {error}.") from error
    if not isinstance(facts, dict):
        raise DataError("E_INDEX_MISSING", f"Expected an object in {folder}/index.json. Received: {facts!r:.60}.")
    return facts


def damaged(folder: str | Path, what: str) -> DataError:
    """Return the error for a release that must not be opened."""
    return DataError(
        "E_RELEASE_DAMAGED",
        f"Expected the release in {folder} as it was published. Received: {what}. It was not opened. Return to an "
        f"earlier release with `anchorage releases rollback --release {parent(folder)}`, or publish a new one with "
        "`anchorage run`.",
    )


def _field_fault(manifest: Mapping[str, Any]) -> str:
    """Describe the first field that is missing or of the wrong type; "" if there is none."""
    for name, kind in _FIELDS.items():
        if name not in manifest:
            return f"`{name}` is missing"
        if type(manifest[name]) is not kind:
            return f"`{name}` is {manifest[name]!r:.40}"
    for name, entry in manifest["files"].items():
        if not (isinstance(entry, dict) and _is_sha256(entry.get("sha256")) and _is_count(entry.get("size"))):
            return f"`files` has no SHA-256 and size for {name!r:.80}"
    facts = manifest["facts"]
    if "previous" not in facts:
        return "`facts.previous` is missing"
    if not (facts["previous"] is None or (_is_count(facts["previous"]) and facts["previous"] <= LAST_VERSION)):
        return f"`facts.previous` is {facts['previous']!r:.40}"
    if not isinstance(facts.get("run_key", ""), str):
        return f"`facts.run_key` is {facts['run_key']!r:.40}"
    metrics = facts.get("metrics", {})
    if not (isinstance(metrics, dict) and all(type(value) in (int, float) for value in metrics.values())):
        return f"`facts.metrics` is {metrics!r:.80}"
    return ""


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0  # a bool is an int, too


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _bundle(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode()).hexdigest()
