"""Drift of live queries: window by window, are they still like the queries that a release was evaluated on?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.errors import DataError, UsageError
from anchorage.judging.two_releases import JUDGED, VALIDATED
from anchorage.retrieval.drift import TESTS, Observed, compare_window, observe
from anchorage.retrieval.health import hubness
from anchorage.retrieval.index import load_vectors
from anchorage.retrieval.table import read_ids, read_table

if TYPE_CHECKING:
    from anchorage.release import Release

FORMAT = 1
REFERENCES = ("evaluation", "first")
NAMES = {
    "distance": "distance of the nearest item",
    "embedding": "embeddings",
    "hubs": "items found",
    "unknown": "share of unknown queries",
}

_NEIGHBORS = 10
_MOST_REFERENCE, _MOST_GALLERY = 1_000, 100_000  # rows; drawn at random beyond
_LEAST_WINDOW = 50
_BINS = 40
_HUBS = 10
_MAPPED = 300  # queries of each kind on the map


@dataclass(frozen=True)
class DriftSettings:
    """Settings of the comparison.

    Args:
        window: queries per window, at least 50.
        windows: newest windows that are tested.
        false_alarms: probability that a report without drift says drift, in (0, 0.5], for all its tests and windows.
        reference: "evaluation" compares with the queries that the release was evaluated on, "first" with the first two
            windows of the queries themselves.
        seed: seed of the permutations and samples.

    Raises:
        UsageError: `E_DRIFT_SETTING`.
    """

    window: int = 500
    windows: int = 20
    false_alarms: float = 0.01
    reference: str = "evaluation"
    seed: int = 0

    def __post_init__(self):
        for name, value, holds, expected in (
            ("window", self.window, self.window >= _LEAST_WINDOW, f"at least {_LEAST_WINDOW} queries"),
            ("windows", self.windows, self.windows >= 1, "at least 1"),
            ("false_alarms", self.false_alarms, 0.0001 <= self.false_alarms <= 0.5, "from 0.0001 to 0.5"),
            ("reference", self.reference, self.reference in REFERENCES, " or ".join(REFERENCES)),
        ):
            if not holds:
                raise UsageError("E_DRIFT_SETTING", f"Expected `{name}` {expected}. Received: {value!r}")


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Reference:
    """The queries and the gallery that windows are compared with.

    Args:
        kind: "evaluation", "gallery" or "first".
        vectors: `(M, D)` embeddings of the reference queries; empty for "first".
        gallery: `(G, D)` embeddings of the gallery, or of a sample of it.
        ids: `(G,)` ids of the gallery.
        labels: `(G,)` labels of the gallery.
        unknown_below: similarity below which a query counts as unknown; None if the release has no such threshold.
        note: a sentence on what is missing; "" if nothing is.
    """

    kind: str
    vectors: np.ndarray
    gallery: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    unknown_below: float | None
    note: str = ""


def read_reference(release: "Release", settings: DriftSettings) -> Reference:
    """Read the gallery and the reference queries of a release.

    The queries are those of the test and validation classes, which the model was not trained on. A release of an
    earlier version has none: its gallery takes their place, each item as a query that does not find itself.
    """
    random = np.random.default_rng(settings.seed)
    vectors, gallery = load_vectors(release.index_folder), read_ids(release.gallery_path)
    rows = _sample(len(vectors), _MOST_GALLERY, random)
    check, note, kind = release.calibration.get("check", {}).get("unknown", {}), "", settings.reference
    held_out = np.empty((0, vectors.shape[1]), np.float32)
    if kind == "evaluation":
        files = [path for name in (JUDGED, VALIDATED) if (path := release.path / "report" / name).is_file()]
        tables = [read_table(path) for path in files]
        held_out = np.concatenate([held_out, *(table.vectors[table.roles != "gallery"] for table in tables)])
    if kind == "evaluation" and len(held_out) < settings.window:
        held_out, kind = np.asarray(vectors), "gallery"
        note = (
            f"The release has fewer than {settings.window} evaluated queries: its gallery is the reference, each item "
            "as a query that does not find itself. This holds if queries are pictures like those of the gallery."
        )
    return Reference(
        kind=kind,
        vectors=held_out[_sample(len(held_out), _MOST_REFERENCE, random)],
        gallery=np.ascontiguousarray(vectors[rows], np.float32),
        ids=gallery["id"][rows],
        labels=gallery["label"][rows],
        unknown_below=release.calibration["unknown"]["threshold"] if check.get("holds") else None,
        note=note,
    )


def detect_drift(
    reference: Reference, vectors: np.ndarray, settings: DriftSettings, times: Sequence[float] | None = None
) -> dict[str, Any]:
    """Compare the newest windows of queries with the reference.

    Args:
        reference: from `read_reference`.
        vectors: `(N, D)` embeddings of queries, oldest first.
        settings: the settings.
        times: `(N,)` seconds since 1970 of the queries, or None.

    Returns:
        A JSON-ready report: `drift`, `sentences`, `settings`, `reference` (`kind`, `queries`, `gallery`, `note` and its
        `statistics`), `limits`, and `windows`, oldest first, each with `drift`, `drifted` (tests), `scores`,
        `p_values`, `limit`, `statistics`, `first` and `last` (times); `histogram`, `hubs` and `map` for the figures.

    Raises:
        DataError: `E_QUERIES_FEW` for less than one window to test; `E_QUERY_SHAPE`, `E_VECTOR_UNUSABLE`.
    """
    vectors = _check(vectors, reference.gallery.shape[1])
    ahead = 2 * settings.window if reference.kind == "first" else 0
    count = min(settings.windows, (len(vectors) - ahead) // settings.window)
    if count < 1:
        raise DataError(
            "E_QUERIES_FEW",
            f"Expected at least {ahead + settings.window:,} queries: a window of {settings.window}"
            + (", and two before it as the reference" if ahead else "")
            + f". Received: {len(vectors):,}. Wait for more, or lower --window",
        )
    seen = observe(vectors, reference.gallery, _NEIGHBORS, reference.unknown_below)
    known = (
        seen.select(slice(0, ahead))
        if ahead
        else observe(reference.vectors, reference.gallery, _NEIGHBORS, reference.unknown_below)
    )
    windows, rate = [], settings.false_alarms / count
    for place in range(count):
        start = len(vectors) - (count - place) * settings.window
        window = seen.select(slice(start, start + settings.window))
        test = compare_window(known, window, rate=rate, seed=settings.seed + place)
        windows.append(
            {
                "number": place + 1,
                "first": _time(times, start),
                "last": _time(times, start + settings.window - 1),
                "drift": bool(test.drifted),
                "drifted": test.drifted,
                **asdict(test),
                "statistics": _statistics(window),
            }
        )
    before = _statistics(known)
    newest = seen.select(slice(len(vectors) - settings.window, None))
    return {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "drift": any(window["drift"] for window in windows),
        "sentences": _sentences(windows, before, settings),
        "settings": asdict(settings),
        "queries": len(vectors),
        "reference": {
            "kind": reference.kind,
            "queries": len(known),
            "gallery": len(reference.gallery),
            "note": reference.note,
            "statistics": before,
        },
        "tests": {name: NAMES[name] for name in TESTS if name in windows[0]["scores"]},
        "windows": windows,
        "histogram": _histogram(known, newest),
        "hubs": _hub_changes(known, newest, reference),
        "map": _map(known, newest),
    }


def _check(vectors: np.ndarray, dimension: int) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise DataError(
            "E_QUERY_SHAPE",
            f"Expected queries of shape (N, {dimension}), as the gallery of the release has. Received: shape "
            f"{vectors.shape}. Another model embedded them",
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        bad = int((~np.isfinite(norms) | (norms == 0)).sum())
        raise DataError(
            "E_VECTOR_UNUSABLE", f"Expected finite embeddings that are not all zero. Received: {bad} others"
        )
    return vectors / norms


def _statistics(queries: Observed) -> dict[str, float | None]:
    """Summary statistics: median distance of the nearest item, share of unknown, unevenness of the hubs."""
    found = queries.neighbors[queries.neighbors >= 0]
    items, places = np.unique(found, return_inverse=True)
    hubs = hubness(places.reshape(-1, 1), np.arange(len(items))) if len(items) else {"skewness": 0.0}
    return {
        "distance": float(np.median(queries.distances)),
        "unknown": None if queries.unknown is None else float(queries.unknown.mean()),
        "hub_skewness": float(hubs["skewness"]),
        "items_found": len(items),
    }


def _sentences(windows: list[dict[str, Any]], before: Mapping[str, Any], settings: DriftSettings) -> list[str]:
    chance = f"the chance of a false alarm in this report is {100 * settings.false_alarms:g} %"
    drifted = [window for window in windows if window["drift"]]
    if not drifted:
        return [f"No drift in {_count(windows)}; {chance}."]
    tests = sorted({name for window in drifted for name in window["drifted"]}, key=TESTS.index)
    now = drifted[-1]["statistics"]
    where = f"{len(drifted)} of {_count(windows)}, the newest of them number {drifted[-1]['number']}"
    sentences = [
        f"Drift in {where if len(windows) > 1 else 'one window'}, by "
        f"{', '.join(NAMES[name] for name in tests)}; {chance}.",
        f"The median distance of the nearest item is {now['distance']:.3f}; it was {before['distance']:.3f} in the "
        "reference.",
    ]
    if now["unknown"] is not None and before["unknown"] is not None:
        sentences.append(f"Unknown are {100 * now['unknown']:.1f} %, in the reference {100 * before['unknown']:.1f} %.")
    return sentences


def _count(windows: Sequence[Any]) -> str:
    return f"{len(windows)} windows" if len(windows) > 1 else "one window"


def _histogram(known: Observed, newest: Observed) -> dict[str, Any]:
    top = float(max(known.distances.max(), newest.distances.max(), 1e-3))
    edges = np.linspace(0, top, _BINS + 1)
    reference, window = (np.histogram(each.distances, edges)[0] / len(each) for each in (known, newest))
    return {"edges": edges.tolist(), "reference": reference.tolist(), "window": window.tolist()}


def _hub_changes(known: Observed, newest: Observed, reference: Reference) -> list[dict[str, Any]]:
    """Gallery items whose share of the queries that find them changed most."""
    shares = [
        np.bincount(each.neighbors[each.neighbors >= 0], minlength=len(reference.gallery)) / len(each)
        for each in (known, newest)
    ]
    top = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:_HUBS]
    return [
        {
            "id": str(reference.ids[row]),
            "label": str(reference.labels[row]),
            "reference": float(shares[0][row]),
            "window": float(shares[1][row]),
        }
        for row in top
    ]


def _map(known: Observed, newest: Observed) -> dict[str, Any]:
    """Queries of both on the first two principal components of the reference."""
    mean = known.vectors.mean(axis=0)
    axes = np.linalg.svd(known.vectors - mean, full_matrices=False)[2][:2]
    return {
        name: np.round((each.vectors[:_MAPPED] - mean) @ axes.T, 4).tolist()
        for name, each in (("reference", known), ("window", newest))
    }


def _time(times: Sequence[float] | None, row: int) -> str | None:
    return None if times is None else datetime.fromtimestamp(times[row], timezone.utc).isoformat(timespec="seconds")


def _sample(count: int, most: int, random: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= most else np.sort(random.permutation(count)[:most])
