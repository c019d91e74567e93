"""Validation of the labels of a batch."""

from typing import Any

import keras
from keras import ops


def check_class_labels(labels, num_classes: int):
    """Reject labels that have no proxy.

    Eager calls raise. A compiled step cannot raise: it gets a NaN factor and so a NaN loss, which stops the training
    instead of updating the wrong proxy.

    Args:
        labels: `(N,)` integer tensor.
        num_classes: labels must lie in `0 .. num_classes - 1`; can be a tensor while a graph is traced.

    Returns:
        Tuple of the labels as int32, with 0 in place of those out of range,
        and a scalar factor for the loss: 1, or NaN if a label is out of range.

    Raises:
        ValueError: on an eager call with a label out of range.
    """
    values = concrete_values(labels)
    if values is not None and values.size and (values.min() < 0 or values.max() >= num_classes):
        raise ValueError(
            f"Expected `labels` in 0 .. {num_classes - 1}, one set of proxies per class. "
            f"Received: labels from {values.min()} to {values.max()}. Number the training classes from 0 and set "
            "`num_classes` to their count."
        )
    labels = ops.convert_to_tensor(labels)
    if not isinstance(num_classes, int):
        num_classes = ops.cast(num_classes, labels.dtype)
    wrong = ops.logical_or(labels < 0, labels >= num_classes)
    factor = ops.where(ops.any(wrong), float("nan"), 1.0)
    return ops.cast(ops.where(wrong, ops.zeros_like(labels), labels), "int32"), factor


def concrete_values(labels) -> Any:
    """Return the labels as a NumPy array, or None while a graph is traced."""
    if keras.backend.is_keras_tensor(labels):
        return None
    try:
        return ops.convert_to_numpy(labels)
    except (NotImplementedError, TypeError):  # what TensorFlow and JAX raise for a traced tensor
        return None
