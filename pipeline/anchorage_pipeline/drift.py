"""The drift of the queries of a release: where they come from, and what was before a retraining."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.errors import DataError, UsageError

if TYPE_CHECKING:
    from anchorage.judging.drift import DriftSettings
    from anchorage.release import Release


def examine(
    release: "Release", settings: "DriftSettings", *, store: str | None = None, queries: str | None = None
) -> dict[str, Any]:
    """Compare queries with the reference of a release.

    Args:
        release: the release.
        settings: how to compare.
        store: URL of the database with the sampled queries; None for the file beside the releases.
        queries: table of embeddings instead of the store, or None.

    Returns:
        The report of `detect_drift`, with `release` (`version`, `fingerprint`, `experiment`), `source` and, if the
        release comes from a retraining that drift started, `before`.

    Raises:
        DataError: E_QUERIES_FEW, E_QUERY_SHAPE, E_TABLE_DAMAGED; E_RELEASE_MIXED if another model embedded the table.
        UsageError: E_STORE_URL, E_EXTRA_MISSING; E_QUERIES_MISSING if there is no database.
        ResourceError: E_STORE_UNAVAILABLE.
    """
    from anchorage.judging.drift import detect_drift, read_reference

    times = None
    if queries is not None:
        vectors, source = _read_vectors(Path(queries), release.model_fingerprint), queries
    else:
        vectors, times, source = _read_samples(release, store)
    document = detect_drift(read_reference(release, settings), vectors, settings, times)
    experiment = release.facts.get("experiment", {}).get("name", release.name)
    head = {"version": release.version, "fingerprint": release.model_fingerprint, "experiment": experiment}
    document |= {"release": head, "source": source}
    before = release.facts.get("trigger", {})
    if before.get("drift"):
        document["before"] = {"reasons": before["reasons"], "sentences": _compared(before["drift"], document)}
    return document


def _compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences on the newest window before the retraining and the newest since."""
    then, newest = before["statistics"], now["windows"][-1]["statistics"]
    sentences = [
        "The drift has ended since the retraining."
        if not now["drift"]
        else "The drift goes on: the retraining did not end it."
    ]
    if then["unknown"] is not None and newest["unknown"] is not None:
        sentences.append(
            f"Unknown were {100 * then['unknown']:.1f} % of the queries before, now {100 * newest['unknown']:.1f} %."
        )
    sentences.append(
        f"Windows beyond the limit: {before['drifted']} of {before['windows']} before, "
        f"{sum(window['drift'] for window in now['windows'])} of {len(now['windows'])} now."
    )
    return sentences


def _read_samples(release: "Release", store: str | None) -> tuple[np.ndarray, list[float], str]:
    from anchorage.release.items import find_store
    from anchorage.release.query_samples import QueryStore

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


def _read_vectors(path: Path, fingerprint: str) -> np.ndarray:
    """The vectors of a table in the order of its rows."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    from anchorage.release.manifest import check_pair
    from anchorage.retrieval.table import read_columns, table_files

    parts = []
    for file in table_files(path):
        column = read_columns(file, ("vector",))["vector"].combine_chunks()
        if not pa.types.is_fixed_size_list(column.type):
            raise DataError(
                "E_TABLE_DAMAGED", f"Expected a fixed-size list as `vector` in {file}. Received: {column.type}"
            )
        if by := (parquet.read_schema(file).metadata or {}).get(b"model_fingerprint"):
            check_pair(fingerprint, by.decode(), "queries")
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        parts.append(flat.reshape(len(column), column.type.list_size))
    return np.concatenate(parts)
