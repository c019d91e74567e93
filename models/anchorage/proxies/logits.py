"""Logits of embeddings and class proxies, and log-sum-exps over many classes in bounded memory."""

from functools import reduce
from typing import Any

import keras
from keras import ops

from anchorage.geometry import dot_products, lowest

_MAX_ENTRIES = 100_000_000  # 381 MiB in float32; above it classes are split into chunks, which takes a third longer
_MAX_CHUNK_ENTRIES = 2**21  # small, as TensorFlow runs ten chunks in parallel
_MIN_CHUNK = 64  # classes; each chunk adds a gradient as large as the embeddings
_LOGSUMEXP_TENSORS = 3  # (N, C) tensors alive in a log-sum-exp and its gradient


def nearest(*logits):
    """Largest of the logits of the proxies of a class."""
    return reduce(ops.maximum, logits)


def softmax_weighted(gamma: float):
    """Make a function of tensors x_j: `sum_j softmax_j(x_j / gamma) x_j`, elementwise.

    Its gradient recomputes the weights instead of storing them. The backend's takes up to 1.3 times the CPU time, and
    136 MiB more as a graph (TensorFlow, SoftTriple, 2,048 rows, 3,000 classes with 5 proxies).
    """

    def weigh(tensors):
        largest = reduce(ops.maximum, tensors)
        weights = [ops.exp((x - largest) / gamma) for x in tensors]
        return weights, sum(weights[1:], weights[0])

    @ops.custom_gradient
    def weighted_sum(*tensors):
        weights, total = weigh(tensors)
        result = sum(w * x for w, x in zip(weights, tensors, strict=True)) / total

        def gradient(*upstreams, upstream=None):
            weights, total = weigh(tensors)
            scaled = (upstreams[0] if upstream is None else upstream) / total
            return tuple(scaled * w * (1.0 + (x - result) / gamma) for w, x in zip(weights, tensors, strict=True))

        return result, gradient

    return lambda *tensors: weighted_sum(*tensors) if len(tensors) > 1 else tensors[0]


def class_logits(rows, proxies, aggregate=nearest):
    """`(N, C)` logits of embeddings and classes.

    Args:
        rows: `(N, D)` float tensor, the scaled embeddings.
        proxies: `(C, K, D)` float tensor, K proxies per class.
        aggregate: function from K tensors of inner products to the logits.
    """
    return aggregate(*[dot_products(rows, proxies[:, k]) for k in range(proxies.shape[1])])


def target_logits(rows, proxies, labels, aggregate=nearest):
    """`(N,)` logits of the target classes; see `class_logits`, with `(N,)` labels.

    Gathers proxies rather than logits: the gradient of a gather from the `(N, C)` logits would be as large as these.
    """
    targets = ops.take(proxies, labels, axis=0)
    return aggregate(*[ops.sum(rows * targets[:, k], axis=1) for k in range(proxies.shape[1])])


def sums_of_classes(x, labels, classes: int):
    """`(C, ...)` sums of the rows `(N, ...)` of each class; `keras.ops.segment_sum` casts to float32 on PyTorch."""
    return ops.scatter_update(ops.zeros((classes, *x.shape[1:]), dtype=x.dtype), labels[:, None], x, reduction="add")


def mean_of_others(rows, proxies, labels):
    """`(N,)` mean logits of the proxies of the other classes, at least one, without computing the single logits."""
    others = ops.sum(proxies, axis=(0, 1)) - ops.sum(ops.take(proxies, labels, axis=0), axis=1)
    count = (ops.shape(proxies)[0] - 1) * proxies.shape[1]
    return ops.sum(rows * others, axis=1) / ops.cast(count, rows.dtype)


def split_target_logit(logits, ids, labels):
    """Split the `(N, B)` logits of the classes `ids` into `(N,)` target logits and log-sum-exps of the others.

    The target logit is 0 if the target is not in `ids`; the log-sum-exp is very negative if there are no others.
    """
    is_target = ids[None, :] == labels[:, None]
    target = ops.sum(ops.where(is_target, logits, ops.zeros_like(logits)), axis=1)
    return target, ops.logsumexp(ops.where(is_target, lowest(logits), logits), axis=1)


def logsumexp_of_others(rows, proxies, labels, aggregate=nearest):
    """`(N,)` log-sum-exps of the logits of all non-target classes; very negative if there are none."""

    def of_chunk(ids, proxies, rows):
        return split_target_logit(class_logits(rows, proxies, aggregate), ids, labels)[1][None, :]

    memory = (rows.shape[0], proxies.shape[1])
    return ops.logsumexp(over_classes(of_chunk, (proxies,), rows, memory_per_class=memory), axis=0)


def target_and_others(rows, proxies, labels, aggregate=nearest):
    """`(N,)` target logits and log-sum-exps of the others; arguments as in `target_logits`.

    Splits the full matrix of logits where that is smaller than the gathered target proxies.
    """
    classes, per_class, dim = proxies.shape
    if isinstance(classes, int) and classes <= per_class * dim and _fits((rows.shape[0], per_class), classes):
        return split_target_logit(class_logits(rows, proxies, aggregate), ops.arange(classes, dtype="int32"), labels)
    return target_logits(rows, proxies, labels, aggregate), logsumexp_of_others(rows, proxies, labels, aggregate)


def logsumexp_of_all(rows, proxies):
    """`(N,)` log-sum-exps of the logits of all classes, with one proxy per class."""

    def of_chunk(_, proxies, rows):
        return ops.logsumexp(class_logits(rows, proxies), axis=1)[None, :]

    return ops.logsumexp(over_classes(of_chunk, (proxies,), rows, memory_per_class=(rows.shape[0], 1)), axis=0)


def over_classes(function, classes, *others, memory_per_class: tuple[Any, int]):
    """Apply a function to all classes, in chunks where its tensors would need too much memory.

    Chunks are recomputed for the gradient, so that the peak memory is that of one chunk.

    Args:
        function: called with the `(B,)` ids of a chunk of classes, the chunk of each tensor in `classes`, and
            `others`. Gradients flow to these arguments only, not to variables in its closure. Its results are
            concatenated along the first axis.
        classes: tuple of `(C, ...)` float tensors.
        others: float tensors.
        memory_per_class: number of rows N, which may be unknown, and the number of `(N, C)` tensors that the function
            keeps in memory besides those of a log-sum-exp.

    Returns:
        The concatenated results.
    """
    rows, size = memory_per_class[0], classes[0].shape[0]
    ids = ops.arange(ops.shape(classes[0])[0], dtype="int32")
    if _fits(memory_per_class, size):
        return function(ids, *classes, *others)

    def of_chunk(chunk):
        ids, *classes = chunk
        return keras.remat(lambda *tensors: function(ids, *tensors))(*classes, *others)

    length = min(size, max(_MIN_CHUNK, _MAX_CHUNK_ENTRIES // (rows * (memory_per_class[1] + _LOGSUMEXP_TENSORS))))
    end = size // length * length
    results = ops.map(of_chunk, tuple(ops.reshape(x[:end], (-1, length, *x.shape[1:])) for x in (ids, *classes)))
    results = ops.reshape(results, (-1, *results.shape[2:]))
    if end == size:
        return results
    return ops.concatenate([results, of_chunk([x[end:] for x in (ids, *classes)])], axis=0)


def _fits(memory_per_class, size) -> bool:
    """Whether all classes fit in memory at once; True for unknown sizes (None or, on JAX, symbolic)."""
    rows, tensors = memory_per_class
    known = isinstance(rows, int) and isinstance(size, int)
    return not known or rows * size * (tensors + _LOGSUMEXP_TENSORS) <= _MAX_ENTRIES
