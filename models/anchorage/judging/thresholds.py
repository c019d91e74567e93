"""Choice of verification thresholds, on the classes of the validation split."""

import math
from typing import Any

import numpy as np

from anchorage.retrieval.pairs import EDGES, PairStatistics
from anchorage.retrieval.verification import accepted_share

FALSE_ACCEPTS = 0.01  # of the pairs of different classes
_FEW_PAIRS = 100  # of classes: fewer do not show what one in a hundred reaches


def choose_thresholds(pairs: PairStatistics, classes: int, split: str) -> dict[str, Any]:
    """Choose thresholds on the cosine similarity, with their error rates.

    A pair is accepted if its similarity is at or above the threshold. The
    false-accept rate is the share of pairs of different classes that are
    accepted, the true-accept rate that of pairs of one class. Thresholds have
    a resolution of 0.0001. `likely_match` is the threshold that search uses.
    Items of two classes tend to be alike together, so that there must be
    enough pairs of classes, not only of items: 15 classes have 105.

    Args:
        pairs: statistics of the pairs of the validation split.
        classes: number of classes of its queries, which have several images.
        split: name of the split, for the result.

    Returns:
        JSON-ready dict; only `split` and `reason` if there are no pairs of one
        class, or too few of different classes.
    """
    positives, negatives = int(pairs.positive.sum()), int(pairs.negative.sum())
    if not positives or not negatives:
        reason = f"split {split!r} has {positives} pairs of one class and {negatives} of different classes"
        return {"split": split, "reason": reason}
    if (combinations := math.comb(classes, 2)) < _FEW_PAIRS:
        which = f"{classes} classes of split {split!r} with several images"
        reason = f"{which} are {combinations} pairs of classes, {_FEW_PAIRS} are needed"
        return {"split": split, "reason": reason}
    true_accept = accepted_share(pairs.positive)
    false_accept = accepted_share(pairs.negative)
    equal = int(np.argmin(np.abs((1.0 - true_accept) - false_accept)))
    strict = int(np.argmax(false_accept <= FALSE_ACCEPTS))  # exists, since the last edge accepts no pair

    def at(edge: int) -> dict[str, float]:
        return {
            "threshold": round(float(EDGES[edge]), 4),
            "false_accept": float(false_accept[edge]),
            "true_accept": float(true_accept[edge]),
        }

    return {
        "split": split,
        "similarity": "cosine",
        "pairs": {"same_class": positives, "other": negatives},
        "equal_error": at(equal),
        "false_accept_1_percent": at(strict),
        "likely_match": {**at(strict), "rule": "at most 1 % of pairs of different classes score as high"},
    }
