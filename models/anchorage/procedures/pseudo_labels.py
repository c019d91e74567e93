"""Selection of pseudo-labels for unlabelled images, for self-training."""

from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from anchorage.inference import embed_rows
from anchorage.vectors import unit_vectors

if TYPE_CHECKING:
    from anchorage.data.relabelled import LabelledRows

_BLOCK = 4096  # rows compared with all classes at once


class PseudoLabels(NamedTuple):
    """Predicted classes of U images.

    Args:
        labels: `(U,)` int64, the most probable class, the lowest on ties.
        confidences: `(U,)` probabilities of these classes.
        similarities: `(U,)` cosines of embeddings and class proxies.
    """

    labels: np.ndarray
    confidences: np.ndarray
    similarities: np.ndarray


def guess_labels(embeddings: np.ndarray, proxies: np.ndarray, temperature: float = 1 / 9) -> PseudoLabels:
    """Predict the class of each embedding from its distances to the class proxies.

    Formula, on unit vectors: `P_jc = softmax_c(-||u_j - p_c||^2 / temperature)`.

    Args:
        embeddings: `(U, D)` float array.
        proxies: `(C, D)` float array.
        temperature: positive.
    """
    proxies = unit_vectors(np.asarray(proxies, np.float64))
    blocks = [np.empty((0, 3))]
    for start in range(0, len(embeddings), _BLOCK):
        cosines = unit_vectors(np.asarray(embeddings[start : start + _BLOCK], np.float64)) @ proxies.T
        logits = (2.0 * cosines - 2.0) / temperature
        label = np.argmax(logits, axis=1)
        largest = np.take_along_axis(logits, label[:, None], axis=1)
        confidence = 1.0 / np.exp(logits - largest).sum(axis=1)
        blocks.append(np.column_stack([label, confidence, np.take_along_axis(cosines, label[:, None], axis=1)]))
    labels, confidences, similarities = np.concatenate(blocks).T
    return PseudoLabels(labels.astype(np.int64), confidences, similarities)


def accept_labels(
    guesses: PseudoLabels, threshold: float = 0.8, cap: int | None = None, least_similarity: float = -1.0
) -> np.ndarray:
    """Select the pseudo-labels to train on.

    Args:
        guesses: result of `guess_labels`.
        threshold: minimum confidence.
        cap: maximum number of images per class, the most confident and then the first ones; None for no limit.
        least_similarity: minimum cosine with the class, which rejects images of unknown classes.

    Returns:
        `(U,)` bool mask.
    """
    accepted = (guesses.confidences >= threshold) & (guesses.similarities >= least_similarity)
    if cap is None:
        return accepted
    kept = np.zeros_like(accepted)
    for label in np.unique(guesses.labels[accepted]):
        members = np.flatnonzero(accepted & (guesses.labels == label))
        kept[members[np.argsort(-guesses.confidences[members], kind="stable")[:cap]]] = True
    return kept


def class_proxies(learner: keras.Model, labelled: "LabelledRows") -> np.ndarray:
    """`(C, D)` class proxies: those of the loss if it has one per class, else the sums of unit embeddings.

    Args:
        learner: learner with the encoder and the loss.
        labelled: labelled images, with at least one per class.
    """
    proxies: Any = getattr(learner.loss_layer, "proxies", None)
    classes = len(labelled.class_names)
    if proxies is not None and len(proxies.shape) == 2 and proxies.shape[0] == classes:
        return keras.ops.convert_to_numpy(proxies)
    vectors = unit_vectors(embed_rows(learner.encoder, labelled, np.arange(len(labelled))))
    sums = np.zeros((classes, vectors.shape[1]))
    np.add.at(sums, labelled.labels, vectors)
    return sums
