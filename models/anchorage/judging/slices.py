"""Slices of the queries that the gate judges separately: by column, by class size, and the most confused classes.

Names of slices are of the form "family=lucide", "class_size=2-5" and "confused".
"""

from collections.abc import Mapping, Sequence

import numpy as np

from anchorage.errors import UsageError

BUILT_IN = ("class_size", "confused")
_VALUES = 20  # largest number of slices per column, most frequent values first
_PARTS = 3  # slices by class size
_CONFUSED = 0.1  # share of the classes in the slice "confused", and
_LEAST_CONFUSED = 5  # their least number


def make_slices(
    kinds: Sequence[str],
    labels: np.ndarray,
    sizes: Mapping[str, int],
    per_query: tuple[np.ndarray, np.ndarray],
    columns: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Compute the masks of all slices, by name.

    Args:
        kinds: kinds of slices: "class_size", "confused", "label" or a name in `columns`.
        labels: `(Q,)` class of each query.
        sizes: number of gallery images of each class.
        per_query: `(Q,)` primary metric of candidate and baseline; the most confused classes are those with the lowest
            mean of both, so that the choice favors neither.
        columns: `(Q,)` values of the columns of the embedding table.

    Raises:
        UsageError: `E_SLICE` for an unknown kind; the message lists the known ones.
    """
    known = [*BUILT_IN, "label", *columns]
    if unknown := [kind for kind in kinds if kind not in known]:
        raise UsageError("E_SLICE", f"Expected slices among {', '.join(known)}. Received: {', '.join(unknown)}")
    masks: dict[str, np.ndarray] = {}
    for kind in kinds:
        if kind == "class_size":
            masks |= _by_size(labels, sizes)
        elif kind == "confused":
            masks |= _most_confused(labels, per_query)
        else:
            masks |= _by_value(kind, labels if kind == "label" else columns[kind])
    return masks


def _by_value(kind: str, values: np.ndarray) -> dict[str, np.ndarray]:
    unique, counts = np.unique(np.asarray(values).astype(str), return_counts=True)
    chosen = [unique[at] for at in np.argsort(-counts, kind="stable")[:_VALUES] if unique[at]]
    return {f"{kind}={value}": values == value for value in sorted(chosen)}


def _by_size(labels: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Split the classes into thirds by size; fewer parts if many classes have the same size."""
    classes, codes = np.unique(labels, return_inverse=True)
    images = np.array([sizes[label] for label in classes.tolist()])
    ends = np.unique(np.quantile(images, np.arange(1, _PARTS + 1) / _PARTS, method="lower"))
    parts = np.searchsorted(ends, images)
    masks = {}
    for part in np.unique(parts):
        low, high = images[parts == part].min(), images[parts == part].max()
        masks[f"class_size={low}" if low == high else f"class_size={low}-{high}"] = parts[codes] == part
    return masks


def _most_confused(labels: np.ndarray, per_query: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    classes, codes = np.unique(labels, return_inverse=True)
    mean = np.bincount(codes, per_query[0] + per_query[1]) / np.bincount(codes)
    chosen = np.argsort(mean, kind="stable")[: max(_LEAST_CONFUSED, round(_CONFUSED * len(classes)))]
    return {"confused": np.isin(codes, chosen)}
