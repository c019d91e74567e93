"""Whether a training is well: which pairs still teach, what spread the embeddings have, which proxies are of use.

The gradient of a loss at unit-length embeddings is a sum over pairs, `G = W E`: item i is moved along item j with
weight `W_ij`. With no more items than dimensions the weights are unique, whatever the loss: `W = G E^+`. The same
holds for proxies, whose gradient is a sum over items.
"""

from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from anchorage.data.batches import Sampler, Store
from anchorage.errors import DataError
from anchorage.inference import embed_rows, named_outputs
from anchorage.learner import MetricLearner
from anchorage.methods.method import Step
from anchorage.retrieval.health import effective_rank

_ROWS = 256  # items whose embeddings are looked at, in whole classes where these are small
_PROXIES = 64  # proxies whose gradient is taken apart
_SILENT = 1e-4  # share of the largest weight below which a pair teaches nothing
PERSISTENT = 3  # epochs in a row that have a finding before it is one; the first epochs of every training are odd
_COLLAPSED = 0.9999  # mean cosine of two items above which all are one point


class TrainingDiagnostics:
    """Looks at a learner after each epoch, says what is odd, and stops a training that has collapsed.

    Args:
        store: training images.
        sampler: whose batches the loss sees.
        seed: of the choice of items.
    """

    def __init__(self, store: Store, sampler: Sampler, seed: int):
        self.store, self.sampler = store, sampler
        random = np.random.default_rng(seed)
        order = random.permutation(np.unique(store.labels))
        places = np.concatenate([np.flatnonzero(store.labels == label)[:16] for label in order[:_ROWS]])
        self.rows = places[:_ROWS]

    def after_epoch(
        self, learner: MetricLearner, step: int, history: Sequence[Mapping[str, float]] = (), settled: int = 1
    ) -> dict[str, float]:
        """Signs after `step` steps, by name; a sentence on what has been odd for `PERSISTENT` epochs is printed once.

        Nothing is printed while validation still improves: then what looks odd does no harm.

        Args:
            learner: whose signs.
            step: steps done.
            history: logs of the epochs before, which have the signs of those; the first is epoch 0.
            settled: first epoch after the warm-up; what is odd before is no finding yet.

        Raises:
            DataError: E_COLLAPSED once all embeddings have been one point after two epochs in a row.
            FloatingPointError: if an embedding is not finite.
        """
        signs = self.measure(learner, step)
        epochs = [*history, signs]
        said = {name for end in range(len(epochs)) for name in _persistent(epochs[:end], settled)}
        for name, sentence in _persistent(epochs, settled).items():
            if name not in said:
                print(f"note: {sentence}", flush=True)
        point = _one_point(signs)
        if point and len(self.rows) > 1 and history[1:] and _one_point(history[-1]):
            raise DataError(
                "E_COLLAPSED",
                f"{point} since two epochs, so the training can teach nothing more. Lower the learning rate, freeze "
                "the trunk for the first steps, or choose a loss with easier pairs.",
            )
        return signs

    def measure(self, learner: MetricLearner, step: int) -> dict[str, float]:
        """Signs by name; those that the loss has no proxies or no gradient for are left out.

        Raises:
            FloatingPointError: if an embedding is not finite.
        """
        vectors = _units(embed_rows(learner, self.store, self.rows).astype(np.float64))
        if not np.isfinite(vectors).all():
            raise FloatingPointError("embeddings became nan or infinite, though no weight did")
        sums, count = vectors.sum(0), len(vectors)
        signs = {
            "effective_rank": float(effective_rank(vectors)["effective_rank"]),
            "mean_cosine": float((sums @ sums - np.square(vectors).sum()) / max(count * (count - 1), 1)),
        }
        proxies = _class_proxies(learner.loss_layer)
        if proxies is not None:
            signs |= proxy_signs(vectors, self.store.labels[self.rows], *proxies)
        if keras.backend.backend() == "tensorflow":  # the only one that hands out gradients outside a training step
            rows = self.sampler.batch(step)[: vectors.shape[1] - 1]  # more would leave the weights undetermined
            signs |= gradient_shares(*_weights(learner, self.store.read(rows), self.store.labels[rows]))
        return signs


def _one_point(signs: Mapping[str, float]) -> str:
    """That all embeddings are one point, in words; empty if they are not."""
    if signs.get("mean_cosine", 0.0) > _COLLAPSED:
        return f"All images have the same embedding (mean cosine {signs['mean_cosine']:.5f})"
    return "The embeddings of all images are zero" if signs.get("effective_rank") == 0 else ""


def _persistent(epochs: Sequence[Mapping[str, float]], settled: int) -> dict[str, str]:
    """Findings that the last `PERSISTENT` epochs share, with the newest sentence; none while validation improves."""
    rows = epochs[settled:]
    if len(rows) < PERSISTENT or _is_improving(epochs[:-1]):
        return {}
    before = [dict(diagnose(row)) for row in rows[-PERSISTENT:-1]]
    return {name: sentence for name, sentence in diagnose(rows[-1]) if all(name in found for found in before)}


def _is_improving(epochs: Sequence[Mapping[str, float]]) -> bool:
    """Whether the best MAP@R on the validation classes is among the last `PERSISTENT` epochs."""
    values = [row["val_map@r"] for row in epochs if "val_map@r" in row]
    return bool(values) and max(values) > max(values[:-PERSISTENT], default=-np.inf)


def diagnose(signs: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """What is odd about the signs: a name and a sentence for each finding."""
    rank = signs.get("effective_rank")
    if rank is not None and rank < 3.0:
        yield (
            "effective_rank",
            f"the embeddings use hardly more than {rank:.1f} directions: the training is close to a collapse; "
            "a lower learning rate or a smaller margin may help.",
        )
    active = signs.get("active_pairs")
    if active is not None and active < 0.005:
        yield (
            "active_pairs",
            f"only {active:.1%} of the pairs in a batch still teach: more classes a batch, a memory or a harder "
            "mining would give the loss more to do.",
        )
    positive = signs.get("positive_gradient_share")
    if positive is not None and not 0.02 < positive < 0.98:
        side = "positive" if positive >= 0.98 else "negative"
        yield (
            "positive_gradient_share",
            f"nearly all of the gradient ({max(positive, 1 - positive):.0%}) comes from {side} pairs: "
            "look at the margins or the weights of the two sides.",
        )
    dead = signs.get("dead_proxies")
    if dead is not None and dead > 0.5:
        yield (
            "dead_proxies",
            f"{dead:.0%} of the proxies are nearest to no item of their class: they learn too slowly (raise "
            "`rate_factors.proxies`) or there are too many a class.",
        )


def gradient_shares(weights: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Shares of pairs by their weights in the gradient.

    Args:
        weights: one number a pair; its size says how strongly the pair pulls or pushes.
        same: whether the two are of one class.

    Returns:
        `active_pairs`, the share of pairs with a weight; if there are any, `positive_gradient_share` too, the share
        of pairs of one class in the sum of sizes. Both in [0, 1].
    """
    sizes = np.abs(weights)
    largest = sizes.max(initial=0.0)
    if not np.isfinite(largest) or largest == 0:
        return {"active_pairs": 0.0}
    return {
        "active_pairs": float(np.mean(sizes > _SILENT * largest)),
        "positive_gradient_share": float(sizes[same].sum() / sizes.sum()),
    }


def proxy_signs(vectors: np.ndarray, labels: np.ndarray, proxies: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """How proxies stand to the items of their classes.

    Args:
        vectors: `(M, D)` embeddings of unit length.
        labels: `(M,)` their classes.
        proxies: `(P, D)`.
        classes: `(P,)` their classes.

    Returns:
        `proxy_distance`, the mean of `1 - cosine` between a class's mean and the nearest of its proxies, in [0, 2];
        `dead_proxies`, the share of the proxies of these classes that are no item's nearest among all proxies.
    """
    proxies = _units(proxies)
    nearest = np.argmax(vectors @ proxies.T, axis=1)
    alive = np.unique(nearest[classes[nearest] == labels])
    seen, places = np.unique(labels, return_inverse=True)
    means = np.zeros((len(seen), vectors.shape[1]))
    np.add.at(means, places, vectors)
    near = np.where(classes[None, :] == seen[:, None], _units(means) @ proxies.T, -np.inf).max(axis=1)
    return {
        "proxy_distance": float(np.mean(1.0 - near)),
        "dead_proxies": float(1.0 - len(alive) / max(np.isin(classes, seen).sum(), 1)),
    }


def _weights(learner: MetricLearner, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the pairs in the loss's gradient, and which of them are of one class."""
    import tensorflow as tf

    loss = learner.loss_layer
    outputs = named_outputs(learner.encoder(images, training=False))
    vectors = _units(keras.ops.convert_to_numpy(outputs["embeddings"]))
    proxies = _class_proxies(loss)
    embeddings = tf.constant(vectors, tf.float32)
    held = [] if proxies is None else [(loss.proxies, tf.constant(proxies[0]))]
    sources = [embeddings, *(tensor for _, tensor in held)]
    with tf.GradientTape() as tape, keras.StatelessScope(held):  # memories and counters stay as they were
        tape.watch(sources)
        value = learner.plain_loss(Step(images, {**outputs, "embeddings": embeddings}, tf.constant(labels), False))
    gradients = tape.gradient(value, sources, unconnected_gradients="zero")
    if proxies is None:
        return _pair_weights(vectors, gradients[0].numpy(), labels)
    return _proxy_weights(vectors, labels, *proxies, tf.convert_to_tensor(gradients[1]).numpy())


def _pair_weights(vectors: np.ndarray, gradient: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights = gradient @ np.linalg.pinv(vectors, rcond=1e-6)
    pairs = ~np.eye(len(labels), dtype=bool)
    return weights[pairs], (labels[:, None] == labels[None, :])[pairs]


def _proxy_weights(vectors, labels, proxies, classes, gradient) -> tuple[np.ndarray, np.ndarray]:
    """Weights of some proxies with all items; what moves a proxy along itself is no item's doing."""
    own = np.flatnonzero(np.isin(classes, labels))[:_PROXIES]
    others = np.linspace(0, len(classes) - 1, min(_PROXIES, len(classes))).astype(int)
    chosen = np.union1d(own, others)
    if _takes_directions(proxies, gradient):  # a longer proxy turns less for the same pull
        gradient = gradient * np.linalg.norm(proxies, axis=1, keepdims=True)
    bases = (np.concatenate([vectors, proxies[[place]]]) for place in chosen)
    weights = [np.linalg.lstsq(b.T, gradient[p], rcond=1e-6)[0][:-1] for b, p in zip(bases, chosen, strict=True)]
    return np.stack(weights), classes[chosen][:, None] == labels[None, :]


def _takes_directions(proxies: np.ndarray, gradient: np.ndarray) -> bool:
    """Whether the loss is blind to the lengths of proxies: then no gradient runs along one."""
    along = np.abs(np.sum(proxies * gradient, axis=1))
    return bool(np.all(along <= 1e-3 * np.linalg.norm(proxies, axis=1) * np.linalg.norm(gradient, axis=1) + 1e-12))


def _class_proxies(loss: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray] | None:
    """`(P, D)` proxies and their `(P,)` classes, of a loss that has as many for each class."""
    count = getattr(loss, "num_classes", None)
    proxies = getattr(loss, "proxies", None)
    if not count or proxies is None or len(proxies.shape) != 2 or proxies.shape[0] % count:
        return None
    return keras.ops.convert_to_numpy(proxies), np.repeat(np.arange(count), proxies.shape[0] // count)


def _units(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
