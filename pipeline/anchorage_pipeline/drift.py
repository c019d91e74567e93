"""The drift of the queries of a release: where they come from, and what was before a retraining."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.errors import DataError

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
    from anchorage.release.query_samples import read_samples

    times = None
    if queries is not None:
        vectors, source = _read_vectors(Path(queries), release.model_fingerprint), queries
    else:
        vectors, times, source = read_samples(release, store)
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
    found = {test for window in now["windows"] for test in window["drifted"]}
    ended = sorted(set(before.get("tests", ())) - found)
    if not now["drift"]:
        head = "The drift has ended since the retraining."
    elif ended:
        names = [", ".join(now["tests"][test] for test in tests) for tests in (ended, sorted(found))]
        head = f"Since the retraining, there is no more drift by {names[0]}; that by {names[1]} goes on."
    else:
        head = "The drift goes on: the retraining did not end it."
    distances = f"{then['distance']:.3f} before, and is {newest['distance']:.3f} now"
    sentences = [head, f"The median distance of the nearest item was {distances}."]
    if then["unknown"] is not None and newest["unknown"] is not None:
        sentences.append(
            f"Unknown were {100 * then['unknown']:.1f} % of the queries before, now {100 * newest['unknown']:.1f} %."
        )
    sentences.append(
        f"Windows beyond the limit: {before['drifted']} of {before['windows']} before, "
        f"{sum(window['drift'] for window in now['windows'])} of {len(now['windows'])} now."
    )
    return sentences


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
