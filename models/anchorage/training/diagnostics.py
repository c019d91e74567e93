"""Training diagnostics: active pairs, spread of the embeddings, and dead proxies.

The gradient of a loss with respect to unit-length embeddings is a sum over pairs, `G = W E`: item i moves along item j
with weight `W_ij`. If there are no more items than dimensions, the weights are unique for any loss: `W = G E^+`. The
same holds for proxies, whose gradient is a sum over items.
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
from anchorage.vectors import unit_vectors

_ROWS = 256  # items to embed, at most 16 per class
_PROXIES = 64  # proxies whose gradient is decomposed
_SILENT = 1e-4  # pairs with a smaller share of the largest weight are not active
PERSISTENT = 3  # successive epochs with an anomaly before it is reported, since the first epochs of a training vary
_COLLAPSED = 0.9999  # mean cosine of two items above which the embeddings have collapsed


class TrainingDiagnostics:
    """Measures a learner after each epoch, reports anomalies, and stops a collapsed training.

    Args:
        store: training images.
        sampler: sampler of the training batches.
        seed: seed of the choice of items.
    """

    def __init__(self, store: Store, sampler: Sampler, seed: int):
        self.store, self.sampler = store, sampler
        random = np.random.default_rng(seed)
        order = random.permutation(np.unique(store.labels))
        rows = np.concatenate([np.flatnonzero(store.labels == label)[:16] for label in order[:_ROWS]])
        self.rows = rows[:_ROWS]

    def after_epoch(
        self, learner: MetricLearner, step: int, history: Sequence[Mapping[str, float]] = (), after_warm_up: int = 1
    ) -> dict[str, float]:
        """Return the diagnostics by name, and print each anomaly once that has lasted for `PERSISTENT` epochs.

        Nothing is printed while the validation metric still improves, since anomalies then do no harm.

        Args:
            learner: the learner to measure.
            step: number of completed steps.
            history: logs of the earlier epochs, with their diagnostics; the first is epoch 0.
            after_warm_up: first epoch after the warm-up; anomalies of earlier epochs are ignored.

        Raises:
            DataError: E_COLLAPSED if all embeddings have been equal after two successive epochs.
            FloatingPointError: if an embedding is not finite.
        """
        diagnostics = self.measure(learner, step)
        epochs = [*history, diagnostics]
        reported = {name for end in range(len(epochs)) for name in _persistent(epochs[:end], after_warm_up)}
        for name, sentence in _persistent(epochs, after_warm_up).items():
            if name not in reported:
                print(f"note: {sentence}", flush=True)
        collapse = _describe_collapse(diagnostics)
        if collapse and len(self.rows) > 1 and history[1:] and _describe_collapse(history[-1]):
            raise DataError(
                "E_COLLAPSED",
                f"{collapse} for two epochs, so the training cannot improve. Lower the learning rate, freeze the trunk "
                "for the first steps, or choose a loss with easier pairs.",
            )
        return diagnostics

    def measure(self, learner: MetricLearner, step: int) -> dict[str, float]:
        """Return the diagnostics by name, without those of proxies or gradients if the loss has none.

        Raises:
            FloatingPointError: if an embedding is not finite.
        """
        vectors = unit_vectors(embed_rows(learner, self.store, self.rows).astype(np.float64))
        if not np.isfinite(vectors).all():
            raise FloatingPointError("embeddings became NaN or infinite, although all weights are finite")
        sums, count = vectors.sum(0), len(vectors)
        diagnostics = {
            "effective_rank": float(effective_rank(vectors)["effective_rank"]),
            "mean_cosine": float((sums @ sums - np.square(vectors).sum()) / max(count * (count - 1), 1)),
        }
        proxies = _class_proxies(learner.loss_layer)
        if proxies is not None:
            diagnostics |= proxy_diagnostics(vectors, self.store.labels[self.rows], *proxies)
        if keras.backend.backend() == "tensorflow":  # gradients outside a training step need `tf.GradientTape`
            rows = self.sampler.batch(step)[: vectors.shape[1] - 1]  # with more rows the weights are not unique
            diagnostics |= gradient_shares(*_weights(learner, self.store.read(rows), self.store.labels[rows]))
        return diagnostics


def _describe_collapse(diagnostics: Mapping[str, float]) -> str:
    """Describe the collapse of the embeddings to one point; empty if they have not collapsed."""
    if diagnostics.get("mean_cosine", 0.0) > _COLLAPSED:
        return f"All images have had the same embedding (mean cosine {diagnostics['mean_cosine']:.5f})"
    return "The embeddings of all images have been zero" if diagnostics.get("effective_rank") == 0 else ""


def _persistent(epochs: Sequence[Mapping[str, float]], after_warm_up: int) -> dict[str, str]:
    """Return the anomalies that the last `PERSISTENT` epochs share; none while validation improves."""
    rows = epochs[after_warm_up:]
    if len(rows) < PERSISTENT or _is_improving(epochs[:-1]):
        return {}
    earlier = [dict(diagnose(row)) for row in rows[-PERSISTENT:-1]]
    return {name: sentence for name, sentence in diagnose(rows[-1]) if all(name in anomalies for anomalies in earlier)}


def _is_improving(epochs: Sequence[Mapping[str, float]]) -> bool:
    """Return whether one of the last `PERSISTENT` epochs has the best validation MAP@R."""
    values = [row["val_map@r"] for row in epochs if "val_map@r" in row]
    return bool(values) and max(values) > max(values[:-PERSISTENT], default=-np.inf)


def diagnose(diagnostics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Yield the name and a description of each anomaly in the diagnostics."""
    rank = diagnostics.get("effective_rank")
    if rank is not None and rank < 3.0:
        yield (
            "effective_rank",
            f"the effective rank of the embeddings is only {rank:.1f}: the training is close to a collapse; "
            "a lower learning rate or a smaller margin may help.",
        )
    active = diagnostics.get("active_pairs")
    if active is not None and active < 0.005:
        yield (
            "active_pairs",
            f"only {active:.1%} of the pairs in a batch are active: more classes per batch, a memory or harder mining "
            "would give more active pairs.",
        )
    positive = diagnostics.get("positive_gradient_share")
    if positive is not None and not 0.02 < positive < 0.98:
        side = "positive" if positive >= 0.98 else "negative"
        yield (
            "positive_gradient_share",
            f"nearly all of the gradient ({max(positive, 1 - positive):.0%}) comes from {side} pairs: "
            "check the margins or the weights of positives and negatives.",
        )
    dead = diagnostics.get("dead_proxies")
    if dead is not None and dead > 0.5:
        yield (
            "dead_proxies",
            f"{dead:.0%} of the proxies are not the nearest proxy of any item of their class: they learn too slowly "
            "(raise `rate_factors.proxies`) or there are too many per class.",
        )


def gradient_shares(weights: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Compute the share of active pairs, and the share of positive pairs in the gradient.

    Args:
        weights: weight of each pair in the gradient.
        same: whether each pair is of one class.

    Returns:
        `active_pairs`, the share of pairs with a non-zero weight; if there are any, also `positive_gradient_share`, the
        share of positive pairs in the sum of absolute weights. Both in [0, 1].
    """
    sizes = np.abs(weights)
    largest = sizes.max(initial=0.0)
    if not np.isfinite(largest) or largest == 0:
        return {"active_pairs": 0.0}
    return {
        "active_pairs": float(np.mean(sizes > _SILENT * largest)),
        "positive_gradient_share": float(sizes[same].sum() / sizes.sum()),
    }


def proxy_diagnostics(
    vectors: np.ndarray, labels: np.ndarray, proxies: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    """Compare proxies with the items of their classes.

    Args:
        vectors: `(M, D)` embeddings of unit length.
        labels: `(M,)` classes of the embeddings.
        proxies: `(P, D)` proxies.
        classes: `(P,)` classes of the proxies.

    Returns:
        `proxy_distance`, the mean of `1 - cosine` between the mean of a class and the nearest of its proxies, in
        [0, 2]; `dead_proxies`, the share of the proxies of these classes that are not the nearest proxy of any item of
        their class.
    """
    proxies = unit_vectors(proxies)
    nearest = np.argmax(vectors @ proxies.T, axis=1)
    alive = np.unique(nearest[classes[nearest] == labels])
    seen, codes = np.unique(labels, return_inverse=True)
    means = np.zeros((len(seen), vectors.shape[1]))
    np.add.at(means, codes, vectors)
    near = np.where(classes[None, :] == seen[:, None], unit_vectors(means) @ proxies.T, -np.inf).max(axis=1)
    return {
        "proxy_distance": float(np.mean(1.0 - near)),
        "dead_proxies": float(1.0 - len(alive) / max(np.isin(classes, seen).sum(), 1)),
    }


def _weights(learner: MetricLearner, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the weights of the pairs in the gradient of the loss, and whether each pair is of one class."""
    import tensorflow as tf

    loss = learner.loss_layer
    outputs = named_outputs(learner.encoder(images, training=False))
    vectors = unit_vectors(keras.ops.convert_to_numpy(outputs["embeddings"]))
    proxies = _class_proxies(loss)
    embeddings = tf.constant(vectors, tf.float32)
    values = [] if proxies is None else [(loss.proxies, tf.constant(proxies[0]))]
    sources = [embeddings, *(tensor for _, tensor in values)]
    with tf.GradientTape() as tape, keras.StatelessScope(values):  # does not change memories and counters
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
    """Compute the weights of all items in the gradients of some proxies, without the part along the proxy itself."""
    of_batch = np.flatnonzero(np.isin(classes, labels))[:_PROXIES]
    others = np.linspace(0, len(classes) - 1, min(_PROXIES, len(classes))).astype(int)
    chosen = np.union1d(of_batch, others)
    if _ignores_norms(proxies, gradient):  # then the gradient is inversely proportional to the norm of the proxy
        gradient = gradient * np.linalg.norm(proxies, axis=1, keepdims=True)
    bases = (np.concatenate([vectors, proxies[[row]]]) for row in chosen)
    weights = [np.linalg.lstsq(b.T, gradient[p], rcond=1e-6)[0][:-1] for b, p in zip(bases, chosen, strict=True)]
    return np.stack(weights), classes[chosen][:, None] == labels[None, :]


def _ignores_norms(proxies: np.ndarray, gradient: np.ndarray) -> bool:
    """Return whether the loss normalizes the proxies: then gradients are orthogonal to them."""
    along = np.abs(np.sum(proxies * gradient, axis=1))
    return bool(np.all(along <= 1e-3 * np.linalg.norm(proxies, axis=1) * np.linalg.norm(gradient, axis=1) + 1e-12))


def _class_proxies(loss: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray] | None:
    """Return proxies `(P, D)` and their classes `(P,)`; None if the loss does not have an equal number per class."""
    count = getattr(loss, "num_classes", None)
    proxies = getattr(loss, "proxies", None)
    if not count or proxies is None or len(proxies.shape) != 2 or proxies.shape[0] % count:
        return None
    return keras.ops.convert_to_numpy(proxies), np.repeat(np.arange(count), proxies.shape[0] // count)
