"""What the data of an experiment holds, found out before anything runs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anchorage.data.intake import check_rejects, check_splits, count_by_code, format_reject, read_image, reject_limit
from anchorage.data.listing import SPLITS, Listing, Reject, Source
from anchorage.errors import DataError
from anchorage_pipeline.config import Experiment, search_space
from anchorage_pipeline.graph import locate_data, training_settings
from anchorage_pipeline.plain import list_sources

_OPENED = 200  # images decoded for a look at the data
_FEW = 5  # bad ones among them from which on the rest is judged by them


def check_listing(experiment: Experiment, rejects_file: str = "") -> Listing:
    """List the images as ingestion does, and refuse data of which a run could say so only later.

    Args:
        experiment: whose data to list.
        rejects_file: gets the bad records when they are too many; "" for none.

    Raises:
        DataError: E_TABLE_DAMAGED, E_TABLE_COLUMNS, E_TOO_MANY_REJECTS, E_SPLIT_EMPTY, as the run does.
        UsageError: E_DATA_MISSING, E_TOO_FEW_CLASSES, E_TOO_FEW_RECORDS.
    """
    data = experiment.data
    listing = list_sources(experiment, val_share=data.val_share, attributes=experiment.evaluation.attributes)
    total = len(listing.sources) + len(listing.rejects)
    check_rejects(
        listing.rejects, total, max_rejects=data.max_rejects, max_share=data.max_reject_share, file=rejects_file
    )
    listed = Counter(source.split for source in listing.sources)
    check_splits(listed, listed, listing.rejects, listing.skipped, listing.unlisted)
    _check_batches(experiment, [source.label for source in listing.sources if source.split == "train"])
    return listing


def inspect_data(experiment: Experiment) -> list[str]:
    """Look at the data and say in a few lines what a run will make of it.

    All files are looked for and some of them decoded, as ingestion does with all.

    Raises:
        AnchorageError: what `check_listing` raises; E_TOO_MANY_REJECTS also where the images that were opened let
            one expect it.
    """
    listing = check_listing(experiment)
    root, table = locate_data(experiment)
    opened, found = _open_images(root, listing.sources, experiment.data.max_pixels)
    rejects = [*listing.rejects, *found]
    _expect_rejects(experiment, listing, opened, rejects)
    bad = {reject.id for reject in found}
    good = [source for source in listing.sources if source.id not in bad]
    if len(opened) == len(listing.sources):
        kept, listed = (Counter(source.split for source in part) for part in (good, listing.sources))
        check_splits(kept, listed, rejects, listing.skipped, listing.unlisted)
    return _describe(table or root, listing, good, len(opened), rejects)


def _check_batches(experiment: Experiment, labels: Sequence[str]) -> None:
    """Make the sampler with the classes that there are; a procedure deals them out first, so it is left to that."""
    from anchorage.data.sampling import SAMPLERS
    from anchorage.registry import create
    from anchorage.training.recipes import choose_settings
    from anchorage.tuning.ranges import apply_values, corner_values

    _, classes = np.unique(labels, return_inverse=True)
    counts = np.bincount(classes)
    for values in corner_values(search_space(experiment)):
        training = choose_settings(apply_values(training_settings(experiment), values), counts)[0]["training"]
        if not training["procedure"]:
            facts = {"labels": classes, "seed": experiment.seed}
            create(SAMPLERS, training["sampler"]["name"], training["sampler"]["params"], facts)


def _open_images(root: Path, sources: Sequence[Source], max_pixels: int) -> tuple[set[str], list[Reject]]:
    """Ids of the images that were decoded, spread over all of them, and what is wrong with any.

    A file that is missing or empty is found out without decoding.
    """
    step = -(-len(sources) // _OPENED) or 1
    opened, rejects = set(), []
    for place, source in enumerate(sources):
        path = root / source.path
        if place % step == 0:
            opened.add(source.id)
        elif path.exists() and path.stat().st_size:
            continue
        _, fault = read_image(path, max_pixels)
        if fault:
            rejects.append(Reject(source.path, source.id, *fault, source.split))
    return opened, rejects


def _expect_rejects(experiment: Experiment, listing: Listing, opened: set[str], rejects: list[Reject]) -> None:
    data, total = experiment.data, len(listing.sources) + len(listing.rejects)
    check_rejects(rejects, total, max_rejects=data.max_rejects, max_share=data.max_reject_share)
    limit = reject_limit(total, max_rejects=data.max_rejects, max_share=data.max_reject_share)
    seen = [reject for reject in rejects if reject.id in opened]
    expected = len(rejects) - len(seen) + len(seen) * len(listing.sources) // max(1, len(opened))
    if len(seen) >= _FEW and expected > limit:
        raise DataError(
            "E_TOO_MANY_REJECTS",
            f"Expected at most {limit} bad records of {total}. Received: {len(seen)} bad of {len(opened)} that were "
            f"opened, so about {expected}: {count_by_code(seen)}. First: {format_reject(seen[0])}. "
            "Mend the data, or raise `data.max_rejects`.",
        )


def _describe(
    place: Path, listing: Listing, good: Sequence[Source], opened: int, rejects: Sequence[Reject]
) -> list[str]:
    sizes = Counter(source.label for source in good)
    other = f" (other files: {listing.skipped:,})" if listing.skipped else ""
    how_many = "all" if opened == len(listing.sources) else f"{opened:,}"
    parts = []
    for split in SPLITS:
        of_split = Counter(source.label for source in good if source.split == split)
        parts.append(f"{split} {sum(of_split.values()):,} / {len(of_split):,}")
    lines = [
        f"data     {len(good):,} images of {len(sizes):,} classes in {place}{other}; {how_many} opened",
        f"split    images / classes: {', '.join(parts)}",
    ]
    if alone := sorted(label for label, number in sizes.items() if number == 1):
        lines.append(f"single   classes of one image: {len(alone):,} ({_first(alone)})")
    if rejects:
        shown = [format_reject(reject) for reject in rejects]
        lines.append(f"rejects  {count_by_code(rejects)}: {_first(shown)}")
    return lines


def _first(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")
