"""Whether a scheduled run is needed: the age of the release, items since, and drift of its queries."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage_pipeline.config import Experiment

if TYPE_CHECKING:
    from anchorage.release import Release

_NO_ANSWER = ("E_QUERIES_FEW", "E_QUERIES_MISSING")  # no drift is known yet


@dataclass(frozen=True)
class Need:
    """Why a run is needed.

    Args:
        reasons: sentences; none if it is not needed.
        drift: of the newest windows, if drift is a reason: `statistics` of the newest, and how many of `windows` have
            `drifted`.
        release: version of the release that the reasons are about, or None.
    """

    reasons: list[str]
    drift: dict[str, Any] = field(default_factory=dict)
    release: int | None = None

    def to_facts(self) -> dict[str, Any]:
        """Return what the manifest of a release tells; nothing if there was no reason."""
        known = {"reasons": self.reasons, "drift": self.drift, "release": self.release}
        return {key: value for key, value in known.items() if value} if self.reasons else {}


def find_need(experiment: Experiment) -> Need:
    """Compare the current release with the limits of `[trigger]`.

    A missing or damaged release is a reason. Too few queries to test for drift are none.

    Raises:
        UsageError: E_TRIGGER_MISSING if the file sets no limit.
        ResourceError: E_STORE_UNAVAILABLE.
    """
    from anchorage.release import open_release

    trigger = experiment.trigger
    if not (trigger.max_age_days or trigger.new_items or trigger.drift):
        raise UsageError(
            "E_TRIGGER_MISSING",
            "Expected a limit in [trigger] for `--if-needed`: `max_age_days`, `new_items` or `drift`. Received: none",
        )
    try:
        release = open_release(experiment.release_folder)
    except (UsageError, DataError) as error:
        return Need([f"There is no usable release: {error.code}."])
    reasons, drift = [], {}
    age = (datetime.now(UTC) - datetime.fromisoformat(release.manifest["created"])).days
    if trigger.max_age_days and age >= trigger.max_age_days:
        reasons.append(f"Release {release.version} is {age} days old; the limit is {trigger.max_age_days}.")
    if trigger.new_items and (count := _count_new(experiment, release)) >= trigger.new_items:
        reasons.append(f"{count:,} items are not in release {release.version}; the limit is {trigger.new_items:,}.")
    if trigger.drift and (found := _find_drift(release, trigger.drift)):
        reasons.append(found["sentences"][0])
        windows = found["windows"]
        drift = {
            "statistics": windows[-1]["statistics"],
            "drifted": sum(window["drift"] for window in windows),
            "windows": len(windows),
        }
    return Need(reasons, drift, release.version)


def _count_new(experiment: Experiment, release: "Release") -> int:
    """Count the images of indexed splits, and the items of the store, that the gallery of the release does not have."""
    from anchorage.release.items import ItemStore, find_store
    from anchorage.retrieval.table import read_ids
    from anchorage_pipeline.plain import list_sources

    ids = set(read_ids(release.gallery_path)["id"].tolist())
    indexed = set(experiment.index.splits)
    listed = {
        source.id
        for source in list_sources(experiment, val_share=experiment.data.val_share).sources
        if source.split in indexed
    }
    new = listed - ids
    if url := find_store(release.folder):
        store, after = ItemStore(url), 0
        while changes := store.changes(after):
            new |= {item.id for item in changes if not item.deleted and item.id not in ids}
            after = changes[-1].change
        store.close()
    return len(new)


def _find_drift(release: "Release", reference: str) -> dict[str, Any] | None:
    from anchorage.judging.drift import DriftSettings
    from anchorage_pipeline.drift import examine

    try:
        found = examine(release, DriftSettings(reference=reference))
    except AnchorageError as error:
        if error.code not in _NO_ANSWER:
            raise
        return None
    return found if found["drift"] else None
