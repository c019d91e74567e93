"""Input checks and pair masks of a batch."""

import keras
from keras import ops


def check_batch(embeddings, labels):
    """Raise unless `embeddings` is `(N, D)` float and `labels` is `(N,)` integer.

    Raises:
        ValueError: on a wrong rank, on two different known batch sizes or on a batch without items.
        TypeError: on labels that are not integers; float32 cannot tell apart
            ids above 16,777,216, so a cast would merge classes in silence.
    """
    if len(embeddings.shape) != 2 or len(labels.shape) != 1:
        raise ValueError(
            "Expected `embeddings` of shape (batch, dim) and `labels` of shape (batch,). "
            f"Received: embeddings.shape={tuple(embeddings.shape)}, labels.shape={tuple(labels.shape)}"
        )
    rows, ids = embeddings.shape[0], labels.shape[0]
    if None not in (rows, ids) and rows != ids:
        raise ValueError(f"Expected one label per embedding. Received: {rows} embeddings and {ids} labels")
    if rows == 0:
        raise ValueError(
            f"Expected a batch of at least one embedding. Received: embeddings.shape={tuple(embeddings.shape)}"
        )
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if "int" not in dtype:
        raise TypeError(f"Expected integer `labels`. Received: labels.dtype={dtype}")


def pair_masks(labels):
    """Masks over ordered pairs `(i, j)`, `i != j`.

    Args:
        labels: `(N,)` integer tensor of class ids.

    Returns:
        Two `(N, N)` bool tensors, `positives` (same label, without the
        diagonal) and `negatives` (other label).
    """
    labels = ops.convert_to_tensor(labels)
    rows = ops.arange(ops.shape(labels)[0])
    same = ops.equal(labels[:, None], labels[None, :])
    return ops.logical_and(same, ops.not_equal(rows[:, None], rows[None, :])), ops.logical_not(same)


def true_rows_first(mask, count):
    """Row numbers of the true entries of an `(N,)` mask and then of others: `(count,)`."""
    return ops.argsort(ops.cast(ops.logical_not(mask), "int32"))[:count]


def mean_where(values, mask, axis=None):
    """Mean of `values` over the true entries of `mask`; 0 where there are none."""
    weights = ops.cast(mask, values.dtype)
    total = ops.sum(ops.where(mask, values, ops.zeros_like(values)), axis=axis)
    return total / ops.maximum(ops.sum(weights, axis=axis), 1.0)
