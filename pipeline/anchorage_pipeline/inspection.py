"""Check and summarize the data of an experiment before anything runs."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from anchorage.data.intake import check_rejects, check_splits, count_by_code, format_reject, read_image, reject_limit
from anchorage.data.listing import SPLITS, Listing, Reject, Source
from anchorage.data.vectors import read_vectors
from anchorage.errors import DataError
from anchorage.progress import track
from anchorage.storage import is_remote
from anchorage_pipeline.cautions import find_cautions
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.plain import list_sources
from anchorage_pipeline.source import locate_data, open_vectors
from anchorage_pipeline.values import search_space

_SAMPLE = 200  # images decoded as a sample
_MIN_REJECTS = 5  # rejects in the sample above which the number of rejects in all data is extrapolated


def check_listing(experiment: Experiment, rejects_file: str = "") -> Listing:
    """List the images as ingestion does, and raise early the errors that a run would raise later.

    Args:
        experiment: the experiment whose data to list.
        rejects_file: file for the rejected records, written when there are too many; "" writes none.

    Raises:
        DataError: E_TABLE_DAMAGED, E_TABLE_COLUMNS, E_TOO_MANY_REJECTS, E_SPLIT_EMPTY.
        UsageError: E_DATA_MISSING, E_TOO_FEW_CLASSES, E_TOO_FEW_RECORDS.
    """
    data = experiment.data
    locate_data(experiment, again=True)
    listing = list_sources(experiment, val_share=data.val_share, attributes=experiment.attributes)
    total = len(listing.sources) + len(listing.rejects)
    check_rejects(
        listing.rejects, total, max_rejects=data.max_rejects, max_share=data.max_reject_share, file=rejects_file
    )
    counts = Counter(source.split for source in listing.sources)
    check_splits(counts, counts, listing.rejects, listing.skipped, listing.unlisted)
    if not experiment.untrained:
        _check_batches(experiment, [source.label for source in listing.sources if source.split == "train"])
    return listing


def inspect_data(experiment: Experiment) -> list[str]:
    """Summarize the data of an experiment in a few lines, with a warning for what will limit its results.

    Every file must exist and a sample of them is decoded, where a run decodes them all.

    Raises:
        AnchorageError: those of `check_listing`; E_TOO_MANY_REJECTS also if the sample predicts too many rejects.
    """
    listing, data = check_listing(experiment), experiment.data
    root, table = locate_data(experiment)
    sides: list[int] = []
    if experiment.data.input == "vectors":
        decoded, sample_rejects = _check_vectors(experiment, listing.sources)
    else:
        decoded, sample_rejects, sides = _decode_sample(root, listing.sources, experiment.data.max_pixels)
    rejects = [*listing.rejects, *sample_rejects]
    _predict_rejects(experiment, listing, decoded, rejects)
    bad = {reject.id for reject in sample_rejects}
    good = [source for source in listing.sources if source.id not in bad]
    if len(decoded) == len(listing.sources):
        kept, listed = (Counter(source.split for source in part) for part in (good, listing.sources))
        check_splits(kept, listed, rejects, listing.skipped, listing.unlisted)
    kind = "vectors" if experiment.data.input == "vectors" else "images"
    lines = _describe(data.path if is_remote(data.path) else table or root, kind, listing, good, len(decoded), rejects)
    return [*lines, *(f"warning  {caution}" for caution in find_cautions(experiment, root, good, sides))]


def shorter_side(data: bytes) -> int:
    """The shorter side in pixels of an image file that can be decoded."""
    with Image.open(io.BytesIO(data)) as image:
        return min(image.size)


def _check_batches(experiment: Experiment, labels: Sequence[str]) -> None:
    """Build the sampler for the training classes, unless a procedure splits the classes first."""
    from anchorage.training.building import create_sampler
    from anchorage.training.recipes import choose_settings
    from anchorage.training.settings import RunSettings
    from anchorage.tuning.ranges import apply_values, corner_values

    _, classes = np.unique(labels, return_inverse=True)
    counts = np.bincount(classes)
    for values in corner_values(search_space(experiment)):
        chosen, _ = choose_settings(apply_values(training_settings(experiment), values), counts)
        training = RunSettings.from_dict(chosen).training
        if training.procedure is None:
            create_sampler(training.sampler, classes, experiment.seed)


def _decode_sample(root: Path, sources: Sequence[Source], max_pixels: int) -> tuple[set[str], list[Reject], list[int]]:
    """Decode an evenly spaced sample; return the sampled ids, the rejects among all sources, and shorter sides.

    A missing or empty file outside the sample is rejected, too.
    """
    step = -(-len(sources) // _SAMPLE) or 1
    decoded, rejects, sides = set(), [], []
    for row, source in enumerate(track(sources, "reading images")):
        path = root / source.path
        if row % step == 0:
            decoded.add(source.id)
        elif path.exists() and path.stat().st_size:
            continue
        data, fault = read_image(path, max_pixels)
        if fault:
            rejects.append(Reject(source.path, source.id, *fault, source.split))
        else:
            sides.append(shorter_side(data))
    return decoded, rejects, sides


def _predict_rejects(experiment: Experiment, listing: Listing, decoded: set[str], rejects: list[Reject]) -> None:
    """Raise if there are too many rejects, or if the sample predicts too many."""
    data, total = experiment.data, len(listing.sources) + len(listing.rejects)
    check_rejects(rejects, total, max_rejects=data.max_rejects, max_share=data.max_reject_share)
    limit = reject_limit(total, max_rejects=data.max_rejects, max_share=data.max_reject_share)
    sampled = [reject for reject in rejects if reject.id in decoded]
    predicted = len(rejects) - len(sampled) + len(sampled) * len(listing.sources) // max(1, len(decoded))
    if len(sampled) >= _MIN_REJECTS and predicted > limit:
        raise DataError(
            "E_TOO_MANY_REJECTS",
            f"Expected at most {limit} bad records of {total}. Received: {len(sampled)} bad in a sample of "
            f"{len(decoded)}, so about {predicted}: {count_by_code(sampled)}. First: {format_reject(sampled[0])}. "
            "Fix the data, or raise `data.max_rejects`.",
        )


def _check_vectors(experiment: Experiment, sources: Sequence[Source]) -> tuple[set[str], list[Reject]]:
    """Read all vectors; return the ids of all rows, and the rejects among them."""
    rows = read_vectors(open_vectors(experiment), sources)
    return {source.id for source in sources}, [row for row in rows if isinstance(row, Reject)]


def _describe(
    path: str | Path, kind: str, listing: Listing, good: Sequence[Source], decoded: int, rejects: Sequence[Reject]
) -> list[str]:
    sizes = Counter(source.label for source in good)
    other = f" (other files: {listing.skipped:,})" if listing.skipped else ""
    how_many = "all" if decoded == len(listing.sources) else f"{decoded:,}"
    verb = "decoded" if kind == "images" else "read"
    parts = []
    for split in SPLITS:
        of_split = Counter(source.label for source in good if source.split == split)
        parts.append(f"{split} {sum(of_split.values()):,} / {len(of_split):,}")
    without = sum(source.label == source.id for source in good)
    unlabelled = f", {without:,} of them without a label" if without else ""
    lines = [
        f"data     {len(good):,} {kind} of {len(sizes):,} classes{unlabelled} in {path}{other}; {how_many} {verb}",
        f"split    {kind} / classes: {', '.join(parts)}",
    ]
    labels = {source.label for source in good if source.label != source.id}
    if singletons := sorted(label for label in labels if sizes[label] == 1):
        lines.append(f"single   classes with one {kind[:-1]}: {len(singletons):,} ({_first(singletons)})")
    if rejects:
        lines.append(f"rejects  {count_by_code(rejects)}: {_first([format_reject(reject) for reject in rejects])}")
    return lines


def _first(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")
