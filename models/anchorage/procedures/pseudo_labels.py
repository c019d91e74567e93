"""Labels for images without one, from the classes that a network knows: pseudo-label selection for self-training."""

from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from anchorage.inference import embed_rows

if TYPE_CHECKING:
    from anchorage.data.relabelled import LabelledRows

_BLOCK = 4096  # rows compared with all classes at once


class PseudoLabels(NamedTuple):
    """One guess for each image.

    Args:
        labels: `(U,)` int64, the most probable class, the lowest of equals.
        confidences: `(U,)` its probability.
        similarities: `(U,)` its cosine.
    """

    labels: np.ndarray
    confidences: np.ndarray
    similarities: np.ndarray


def guess_labels(embeddings: np.ndarray, proxies: np.ndarray, temperature: float = 1 / 9) -> PseudoLabels:
    """The class of each embedding by its distance from the classes' proxies, all brought to unit length.

    Formula: `P_jc = softmax_c(-||u_j - p_c||^2 / temperature)`.

    Args:
        embeddings: `(U, D)`.
        proxies: `(C, D)`.
        temperature: positive.
    """
    proxies = _unit(np.asarray(proxies, np.float64))
    parts = [np.empty((0, 3))]
    for start in range(0, len(embeddings), _BLOCK):
        cosines = _unit(np.asarray(embeddings[start : start + _BLOCK], np.float64)) @ proxies.T
        logits = (2.0 * cosines - 2.0) / temperature
        label = np.argmax(logits, axis=1)
        top = np.take_along_axis(logits, label[:, None], axis=1)
        confidence = 1.0 / np.exp(logits - top).sum(axis=1)
        parts.append(np.column_stack([label, confidence, np.take_along_axis(cosines, label[:, None], axis=1)]))
    labels, confidences, similarities = np.concatenate(parts).T
    return PseudoLabels(labels.astype(np.int64), confidences, similarities)


def accept_labels(
    guesses: PseudoLabels, threshold: float = 0.8, cap: int | None = None, least_similarity: float = -1.0
) -> np.ndarray:
    """Which guesses to believe, `(U,)` bool.

    Args:
        guesses: of `guess_labels`.
        threshold: least confidence.
        cap: most images of one class, the most confident first and the first of equals; None for all.
        least_similarity: least cosine with the class, against images of classes that are not known.
    """
    accepted = (guesses.confidences >= threshold) & (guesses.similarities >= least_similarity)
    if cap is None:
        return accepted
    kept = np.zeros_like(accepted)
    for label in np.unique(guesses.labels[accepted]):
        own = np.flatnonzero(accepted & (guesses.labels == label))
        kept[own[np.argsort(-guesses.confidences[own], kind="stable")[:cap]]] = True
    return kept


def class_proxies(learner: keras.Model, labelled: "LabelledRows") -> np.ndarray:
    """`(C, D)` what stands for each class: the loss's own proxies if it has one a class, else means of unit embeddings.

    Args:
        learner: of whose encoder and loss.
        labelled: images with labels; each class has some.
    """
    own: Any = getattr(learner.loss_layer, "proxies", None)
    classes = len(labelled.class_names)
    if own is not None and len(own.shape) == 2 and own.shape[0] == classes:
        return keras.ops.convert_to_numpy(own)
    vectors = _unit(embed_rows(learner.encoder, labelled, np.arange(len(labelled))))
    sums = np.zeros((classes, vectors.shape[1]))
    np.add.at(sums, labelled.labels, vectors)
    return sums


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
