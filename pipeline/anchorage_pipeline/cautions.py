"""Properties of valid data that make results worse than they could be, for `anchorage check`."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anchorage.data.listing import Source
from anchorage.files import hash_file
from anchorage.retrieval.calibration import FEW_CLASSES
from anchorage_pipeline.config import Experiment

_FEW_TRAINING, _FEW_TEST = 10, 5  # classes; the gate sees no improvement on fewer than 5 test classes
_MUCH_SMALLER = 0.5  # of `data.image_size`
_DOMINANT = 0.5  # of the images of a split
_MOST_HASHED = 256 << 20  # bytes of files of equal size; with more, copies are left to the audit of a run


def find_cautions(experiment: Experiment, root: Path, sources: Sequence[Source], sides: Sequence[int]) -> list[str]:
    """One sentence for each caution.

    Args:
        experiment: the experiment.
        root: folder of the images.
        sources: the valid images.
        sides: shorter side in pixels of a sample of them.
    """
    labelled = [source for source in sources if source.label != source.id]  # an image without a label has its id
    found = [*_in_classes(experiment, labelled)] if labelled else []
    size = experiment.data.image_size
    if sides and (side := int(np.median(sides))) < _MUCH_SMALLER * size:
        found.append(
            f"the shorter side of the images is {side} pixels (median), much smaller than `data.image_size` = {size}: "
            "a smaller value trains faster, at about the same quality"
        )
    return found if experiment.data.input == "vectors" else [*found, *_copies(experiment, root, sources)]


def _in_classes(experiment: Experiment, sources: Sequence[Source]) -> list[str]:
    found = []
    classes = {split: Counter(s.label for s in sources if s.split == split) for split in ("train", "val", "test")}
    if len(classes["train"]) < _FEW_TRAINING and not experiment.untrained:
        found.append(
            f"few training classes, {len(classes['train'])}: embeddings learned on them may not tell new classes apart"
        )
    if len(classes["test"]) < _FEW_TEST:
        number = len(classes["test"])
        found.append(f"{number} test classes: the gate needs at least {_FEW_TEST} to show that a candidate is better")
    found += _in_validation(experiment, sum(number > 1 for number in classes["val"].values()))
    for split, sizes in classes.items():
        label, number = max(sizes.items(), key=lambda item: item[1], default=("", 0))
        if len(sizes) > 2 and number > _DOMINANT * sizes.total():
            share = f"{100 * number / sizes.total():.0f} % of the {split} images"
            effect = "batches of equal classes show few of them" if split == "train" else "it dominates the metrics"
            found.append(f"class {label!r} has {share}: {effect}")
    several = Counter(label for sizes in classes.values() for label in sizes)
    if shared := sorted(label for label, number in several.items() if number > 1):
        effect = "this stops a run" if experiment.data.block_on_leaks else "results do not hold for new classes"
        subject = "1 class is" if len(shared) == 1 else f"{len(shared):,} classes are"
        found.append(f"{subject} in several splits, such as {shared[0]!r}: {effect}")
    return found


def _in_validation(experiment: Experiment, classes: int) -> list[str]:
    """Cautions about too few validation classes with several images, with which search is calibrated."""
    needed = int(np.ceil(1 / experiment.evaluation.false_accepts - 1 - 1e-9))
    lost = []
    if classes == 1 and not experiment.untrained:
        lost.append("no choice among the epochs, as every result within one class is right")
    if classes < FEW_CLASSES:
        lost.append(f"no match probabilities or likely matches, which need {FEW_CLASSES}")
    if classes < needed or lost:
        lost.append(f"no report of unknown classes, which needs {max(needed, FEW_CLASSES)}")
    if not lost:
        return []
    return [
        f"{classes} validation classes with several images: {', and '.join(lost)}; more classes or `data.val_share`"
    ]


def _copies(experiment: Experiment, root: Path, sources: Sequence[Source]) -> list[str]:
    """Files of identical content, found by size and hash."""
    by_size = defaultdict(list)
    for source in sources:
        by_size[(root / source.path).stat().st_size].append(source)
    if sum(size * len(group) for size, group in by_size.items() if len(group) > 1) > _MOST_HASHED:
        return []
    by_hash = defaultdict(list)
    for size, group in by_size.items():
        for source in group if len(group) > 1 else []:
            by_hash[size, hash_file(root / source.path)].append(source)
    groups = [group for group in by_hash.values() if len(group) > 1]
    if not groups:
        return []
    leaks = [group for group in groups if len({source.split for source in group}) > 1]
    first = (leaks or groups)[0]
    count = sum(map(len, groups)) - len(groups)
    subject = "1 file is a copy of another:" if count == 1 else f"{count:,} files are copies of others, such as"
    text = f"{subject} {first[1].id} of {first[0].id}"
    if leaks:
        text += f"; {len(leaks):,} of them in several splits"
        if experiment.data.block_on_leaks:
            text += ", which stops a run"
        elif any(source.label != source.id for source in sources):  # else nothing is measured
            text += ", which makes results too good"
    return [text]
