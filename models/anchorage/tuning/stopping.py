"""The median rule, which stops unpromising trials: Golovin et al., "Google Vizier", KDD 2017, section 3.2.2."""

import math
from collections.abc import Sequence
from statistics import fmean, median

MIN_PEERS = 3  # finished trials without which a median says little


class TrialStopped(Exception):  # noqa: N818 (not an error)
    """Ends the training of a trial that is not promising; the message is the reason."""


def reason_to_stop_trial(curve: Sequence[float], others: Sequence[Sequence[float]]) -> str:
    """Why a trial is not promising; empty if it is.

    A trial is not promising if its best objective so far is below the median, over the other trials, of the mean of
    their objectives up to the same validation. It is never stopped after its last validation.

    Args:
        curve: objective of each validation of the trial so far, which higher is better.
        others: curves of the trials that were completed.

    Example:
        >>> reason_to_stop_trial([0.1, 0.2], [[0.3, 0.5, 0.6], [0.1, 0.3, 0.5], [0.2, 0.4, 0.9]])
        'its best map@r, 0.2000, is below 0.3000, the median of 3 trials after as many validations'
        >>> reason_to_stop_trial([0.1, 0.3], [[0.3, 0.5, 0.6], [0.1, 0.3, 0.5], [0.2, 0.4, 0.9]])
        ''
    """
    count = len(curve)
    peers = [other for other in others if len(other) > count]
    if len(peers) < MIN_PEERS:
        return ""
    best, bound = max(curve), median(fmean(peer[:count]) for peer in peers)
    if best > bound or math.isclose(best, bound):  # equal but for the rounding of a mean
        return ""
    return (
        f"its best map@r, {best:.4f}, is below {bound:.4f}, the median of {len(peers)} trials after as many validations"
    )
