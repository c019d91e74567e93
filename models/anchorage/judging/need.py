"""Whether a scheduled run is needed: the age of the release, items since, and drift of its queries."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.release import open_release

if TYPE_CHECKING:
    from anchorage.release import Release

_NO_ANSWER = ("E_QUERIES_FEW", "E_QUERIES_MISSING")  # no drift is known yet


@dataclass(frozen=True)
class Need:
    """Why a run is needed.

    Args:
        reasons: sentences, one for each limit that is passed.
        drift: of the newest windows, if drift is a reason: `statistics` of the newest, the `tests` that found drift in
            any, and how many of `windows` have `drifted`.
        release: version of the release that the reasons are about, or None.
        repeats: whether that release was made from the same data, settings and code: a run would make it again.
    """

    reasons: list[str]
    drift: dict[str, Any] = field(default_factory=dict)
    release: int | None = None
    repeats: bool = False

    @property
    def is_met(self) -> bool:
        """Whether a run is needed, and can change anything."""
        return bool(self.reasons) and not self.repeats

    def describe(self) -> str:
        """One sentence on why no run is needed, or a reason per sentence."""
        if self.is_met:
            return " ".join(self.reasons)
        if self.reasons:
            return (
                f"{' '.join(self.reasons)} But release {self.release} was made from the same data and settings, and a "
                "run would make it again: add data first, or change the experiment."
            )
        return f"Release {self.release} keeps to the limits of [trigger]."

    def to_facts(self) -> dict[str, Any]:
        """Return the reasons for the manifest of a release; empty if there are none."""
        known = {"reasons": self.reasons, "drift": self.drift, "release": self.release}
        return {key: value for key, value in known.items() if value} if self.reasons else {}


def find_need(
    releases: str | Path,
    run_key: str,
    list_ids: Callable[[], Iterable[str]],
    *,
    max_age_days: int = 0,
    new_items: int = 0,
    drift: str = "",
    store: str | None = None,
) -> Need:
    """Compare the current release with limits; one of 0 or "" is none.

    A missing or damaged release is a reason. Too few queries to test for drift are none.

    Args:
        releases: path or URI of the folder of releases; need not exist.
        run_key: digest of the data, the settings and the code of the run.
        list_ids: lists the ids of the data that belong into the index; called only for `new_items`.
        max_age_days: age of the release in days from which a run is needed.
        new_items: number of items, in the data and in the store of the service, that the release does not have.
        drift: what the sampled queries are compared with, "evaluation" or "first" as in `DriftSettings`.
        store: URL of the database of items and queries; None for the file beside the releases, which need not exist.

    Raises:
        UsageError: E_STORE_URL, E_EXTRA_MISSING.
        ResourceError: E_STORE_UNAVAILABLE.
        DataError: of the data, what `list_ids` raises.
    """
    try:
        release = open_release(releases)
    except (UsageError, DataError) as error:
        return Need([f"There is no usable release: {error.code}."])
    reasons, known = [], {}
    age = (datetime.now(timezone.utc) - datetime.fromisoformat(release.manifest["created"])).days
    if max_age_days and age >= max_age_days:
        reasons.append(f"Release {release.version} is {age} days old; the limit is {max_age_days}.")
    if new_items and (count := _count_new(release, list_ids(), store)) >= new_items:
        reasons.append(f"{count:,} items are not in release {release.version}; the limit is {new_items:,}.")
    if drift and (found := _find_drift(release, drift, store)):
        reasons.append(found["sentences"][0])
        windows = found["windows"]
        known = {
            "statistics": windows[-1]["statistics"],
            "tests": _found(windows),
            "drifted": sum(window["drift"] for window in windows),
            "windows": len(windows),
        }
    return Need(reasons, known, release.version, repeats=release.facts.get("run_key") == run_key)


def _found(windows: list[dict[str, Any]]) -> list[str]:
    return sorted({test for window in windows for test in window["drifted"]})


def _count_new(release: "Release", listed: Iterable[str], store: str | None) -> int:
    """Count the listed items, and those of the store, that the gallery of the release does not have."""
    from anchorage.release.items import ItemStore, find_store
    from anchorage.retrieval.table import read_ids

    ids = set(read_ids(release.gallery_path)["id"].tolist())
    new = set(listed) - ids
    if url := store or find_store(release.folder):
        items, after = ItemStore(url), 0
        while changes := items.changes(after):
            new |= {item.id for item in changes if not item.deleted and item.id not in ids}
            after = changes[-1].change
        items.close()
    return len(new)


def _find_drift(release: "Release", reference: str, store: str | None) -> dict[str, Any] | None:
    from anchorage.judging.drift import DriftSettings, detect_drift, read_reference
    from anchorage.release.query_samples import read_samples

    settings = DriftSettings(reference=reference)
    try:
        vectors, times, _ = read_samples(release, store)
        found = detect_drift(read_reference(release, settings), vectors, settings, times)
    except AnchorageError as error:
        if error.code not in _NO_ANSWER:
            raise
        return None
    return found if found["drift"] else None
