"""Checks of the labels of a batch."""

from typing import Any

import keras
from keras import ops


def check_class_labels(labels, num_classes: int):
    """Refuse labels that have no proxy.

    Eager calls raise. A compiled step cannot: there the returned factor is not-a-number, and so is the
    loss, which stops the training instead of teaching the wrong proxy.

    Args:
        labels: `(N,)` integer tensor.
        num_classes: labels must lie in `0 .. num_classes - 1`; while a graph is traced perhaps a tensor.

    Returns:
        Pair of the labels as int32, clipped to what there is, and a scalar
        to multiply the loss with: 1, or nan if a label was out of range.

    Raises:
        ValueError: on an eager call with a label out of range.
    """
    known = concrete_values(labels)
    if known is not None and known.size and (known.min() < 0 or known.max() >= num_classes):
        raise ValueError(
            f"Expected `labels` in 0 .. {num_classes - 1}, one proxy set a class. "
            f"Received: labels from {known.min()} to {known.max()}. Number the training classes from 0 and set "
            "`num_classes` to their count."
        )
    labels = ops.convert_to_tensor(labels)
    if not isinstance(num_classes, int):
        num_classes = ops.cast(num_classes, labels.dtype)
    wrong = ops.logical_or(labels < 0, labels >= num_classes)
    factor = ops.where(ops.any(wrong), float("nan"), 1.0)
    return ops.cast(ops.where(wrong, ops.zeros_like(labels), labels), "int32"), factor


def concrete_values(labels) -> Any:
    """The labels as a NumPy array, or None while a graph is being traced."""
    if keras.backend.is_keras_tensor(labels):
        return None
    try:
        return ops.convert_to_numpy(labels)
    except (NotImplementedError, TypeError):  # what TensorFlow and JAX raise for a traced tensor
        return None
