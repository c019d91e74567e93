"""Losses without a published case, against plain loops in float64: value, and slope of the loop by differences."""

import keras
import numpy as np
import pytest
from backends import agree, slopes_of

from anchorage.losses import create_loss

ROWS, DIM = 8, 3
X = np.random.default_rng(5).normal(size=(ROWS, DIM))
EARLIER = np.random.default_rng(6).normal(size=(ROWS, DIM))  # the batch before
LABELS = np.array([0, 0, 1, 1, 2, 2, 2, 0])
PROXIES, BIAS = np.random.default_rng(7).normal(size=(3, DIM)), np.array([0.1, -0.2, 0.3])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def contrastive(pairs):
    """Mean of the costs above 0 of positives, and of negatives, from (same class, distance)."""
    costs = {True: [], False: []}
    for same, d in pairs:
        costs[same].append(d if same else max(0.0, 1.0 - d))
    return sum(np.mean([c for c in side if c > 0]) for side in costs.values() if any(c > 0 for c in side))


def nt_xent(x, temperature=0.07):
    s, costs = unit(x) @ unit(x).T / temperature, []
    for a in range(ROWS):
        against = sum(np.exp(s[a, n]) for n in range(ROWS) if LABELS[n] != LABELS[a])
        costs += [
            -np.log(np.exp(s[a, p]) / (np.exp(s[a, p]) + against))
            for p in range(ROWS)
            if p != a and LABELS[p] == LABELS[a]
        ]
    return np.mean(costs)


def binomial_deviance(x, _):
    s, total = unit(x) @ unit(x).T, 0.0
    for i in range(ROWS):
        near = [np.log1p(np.exp(2 * (0.5 - s[i, j]))) for j in range(ROWS) if j != i and LABELS[j] == LABELS[i]]
        far = [np.log1p(np.exp(25 * (s[i, j] - 0.5))) for j in range(ROWS) if LABELS[j] != LABELS[i]]
        total += np.mean(near) + np.mean(far)
    return total / ROWS


def whole_batch(x):
    u = unit(x)
    return contrastive(
        (LABELS[i] == LABELS[j], np.linalg.norm(u[i] - u[j])) for i in range(ROWS) for j in range(ROWS) if i != j
    )


def kept_pairs(x, eps=0.1):
    """The pairs that multi-similarity mining keeps, as (i, j, same class)."""
    s = unit(x) @ unit(x).T
    for i in range(ROWS):
        positives = [j for j in range(ROWS) if j != i and LABELS[j] == LABELS[i]]
        negatives = [j for j in range(ROWS) if LABELS[j] != LABELS[i]]
        yield from ((i, j, True) for j in positives if s[i, j] < max(s[i, negatives]) + eps)
        yield from ((i, j, False) for j in negatives if s[i, j] > min(s[i, positives]) - eps)


def mined(x, held):
    u = unit(x)
    return contrastive((same, np.linalg.norm(u[i] - u[j])) for i, j, same in kept_pairs(held))


def cross_batch_memory(x, held):
    """The batch against the one before and, held constant, itself."""
    u, memory, others = unit(x), unit(np.concatenate([EARLIER, held])), np.tile(LABELS, 2)
    return contrastive(
        (LABELS[i] == others[j], np.linalg.norm(u[i] - memory[j]))
        for i in range(ROWS)
        for j in range(2 * ROWS)
        if j != i + ROWS
    )


def regularized(x, _):
    logits = x @ PROXIES.T + BIAS
    costs = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, LABELS, strict=True)]
    return np.mean(costs) + np.mean(np.linalg.norm(x, axis=1))


def general_pair_weighting(x, held, alpha=2.0, beta=50.0, base=0.5):
    s, now, total = unit(held) @ unit(held).T, unit(x) @ unit(x).T, 0.0
    pairs = list(kept_pairs(held))
    for i, j, same in pairs:
        sharp = -alpha if same else beta
        whole = 1 + sum(np.exp(sharp * (s[i, k] - base)) for a, k, kind in pairs if a == i and kind == same)
        weight = np.exp(sharp * (s[i, j] - base)) / whole
        total += (-weight if same else weight) * now[i, j]
    return total / ROWS


def gaps_of(x):
    d = np.linalg.norm(unit(x)[:, None] - unit(x)[None], axis=2)
    triplets = ((a, p, n) for a in range(ROWS) for p in range(ROWS) for n in range(ROWS) if p != a)
    return np.array([d[a, p] - d[a, n] for a, p, n in triplets if LABELS[p] == LABELS[a] != LABELS[n]])


def dynamic_soft_margin(x, held, bins=10, momentum=0.01):
    nodes, histogram = np.linspace(-2, 2, bins + 1), None
    for batch in (EARLIER, held):
        shares = np.maximum(0, 1 - np.abs(gaps_of(batch)[:, None] - nodes) * bins / 4).mean(axis=0)
        histogram = shares if histogram is None else (1 - momentum) * histogram + momentum * shares
    below = [histogram[: 1 + np.flatnonzero(nodes <= gap)[-1]].sum() for gap in gaps_of(held)]
    return np.mean(below * gaps_of(x))


def ensemble(x, held):
    """Two losses of equal weight, each brought to the mean size by its average over both batches."""
    means = [(loss(EARLIER) + loss(held)) / 2 for loss in (whole_batch, nt_xent)]
    return sum(0.5 * loss(x) * np.mean(means) / mean for loss, mean in zip((whole_batch, nt_xent), means, strict=True))


# Loss -> its loop, of the embeddings and of what is held constant in the gradient; parameters; weights.
ORACLES = {
    "binomial_deviance": (binomial_deviance, {}, {}),
    "cross_batch_memory": (cross_batch_memory, {"memory_size": 2 * ROWS}, {}),
    "dynamic_soft_margin": (dynamic_soft_margin, {}, {}),
    "ensemble": (ensemble, {"members": [{"name": "contrastive"}, {"name": "nt_xent"}]}, {}),
    "general_pair_weighting": (general_pair_weighting, {}, {}),
    "mined": (mined, {}, {}),
    "regularized": (regularized, {}, {"proxies": PROXIES, "bias": BIAS}),
    "self_supervised": (lambda x, _: nt_xent(x), {}, {}),
}


def slope(function, x, step=1e-5):
    """Fourth-order differences: right to about 1e-10 where the function is smooth."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        unit_step = np.zeros_like(x)
        unit_step[place] = step
        near, far = (function(x + k * unit_step) - function(x - k * unit_step) for k in (1, 2))
        found[place] = (8 * near - far) / (12 * step)
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 2e-8), ("float32", 2e-5)])
@pytest.mark.parametrize("name", sorted(ORACLES))
def test_second_batch(name, dtype, tolerance):
    oracle, params, weights = ORACLES[name]
    loss = create_loss(name, params, num_classes=3)
    loss = type(loss).from_config({**loss.get_config(), "dtype": dtype})
    loss(keras.KerasTensor((None, DIM), dtype), keras.KerasTensor((None,), "int32"))
    for attribute, value in weights.items():
        getattr(loss.inner, attribute).assign(value)
    loss(EARLIER.astype(dtype), LABELS)
    value, (gradient, *_) = slopes_of(loss)(X.astype(dtype), LABELS)
    agree(name, "loop", dtype, value, oracle(X, X), tolerance)
    agree(name, "loop", dtype, gradient, slope(lambda x: oracle(x, X), X), tolerance)
