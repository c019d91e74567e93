"""Hard negative class mining: Sohn, NeurIPS 2016, section 3.2.3: classes for a batch that confuse each other."""

import numpy as np

from models.errors import UsageError


def pick_hard_classes(class_means, count: int, start: int | None = None, seed: int | None = None) -> np.ndarray:
    """Choose classes one by one, each the one that comes nearest to any class chosen before.

    Nearness is the inner product of class means, as in the N-pair loss. To follow the paper take the means of a few
    times more classes than a batch holds, over one or two items each, with the present network.

    Args:
        class_means: `(C, D)` float array, one row a class.
        count: classes wanted, from 1 to C.
        start: row of the first class; None draws it.
        seed: of the first class and of ties; None takes class 0 and the lowest row.

    Returns:
        `(count,)` int64 rows of `class_means`, all different, the first class first.

    Raises:
        UsageError: `E_TOO_FEW_CLASSES` if there are fewer than `count` classes, or `count` is below 1.
        ValueError: if `start` is none of the rows.

    Example:
        >>> pick_hard_classes(np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]), 2, start=0).tolist()
        [0, 2]
    """
    means = np.asarray(class_means, "float64")
    if not 1 <= count <= len(means):
        raise UsageError(
            "E_TOO_FEW_CLASSES",
            f"Expected `count` from 1 to the number of classes, {len(means)}. Received: count={count}",
        )
    random = None if seed is None else np.random.default_rng(seed)
    if start is None:
        start = 0 if random is None else int(random.integers(len(means)))
    if not 0 <= start < len(means):
        raise ValueError(f"`start` must be a row of `class_means`, below {len(means)}. Received: start={start}")
    chosen = [start]
    nearness = means @ means[start]
    for _ in range(count - 1):
        nearness[chosen[-1]] = -np.inf
        best = np.flatnonzero(nearness == nearness.max())
        chosen.append(int(best[0] if random is None else random.choice(best)))
        taken = np.isneginf(nearness)
        nearness = np.where(taken, -np.inf, np.maximum(nearness, means @ means[chosen[-1]]))
    return np.array(chosen, "int64")
