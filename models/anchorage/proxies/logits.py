"""Logits of rows with the proxies of all classes, and sums over classes that do not hold all of them at once."""

from functools import reduce
from typing import Any

import keras
from keras import ops

from anchorage.geometry import dot_products, lowest

_MOST_HELD = 100_000_000  # numbers, 381 MiB; beyond, classes are taken in parts, which costs a third more time
_HELD_IN_PARTS = 2**21  # TensorFlow's graphs have ten parts in work at once
_LEAST_PART = 64  # classes: what is added up over all parts is as large as the rows
_HELD_FOR_SUM = 3  # matrices, for a log-sum-exp and its gradient


def nearest(*logits):
    """The largest of the logits of a class's proxies; of a single proxy its own."""
    return reduce(ops.maximum, logits)


def softly_nearest(gamma: float):
    """Function of tensors x_j: `sum_j softmax_j(x_j / gamma) x_j`, entry by entry; its gradient keeps no weights."""

    def weigh(tensors):
        top = reduce(ops.maximum, tensors)
        weights = [ops.exp((x - top) / gamma) for x in tensors]
        return weights, sum(weights[1:], weights[0])

    @ops.custom_gradient
    def soft_maximum(*tensors):
        weights, total = weigh(tensors)
        result = sum(w * x for w, x in zip(weights, tensors, strict=True)) / total

        def gradient(*upstreams, upstream=None):
            weights, total = weigh(tensors)
            share = (upstreams[0] if upstream is None else upstream) / total
            return tuple(share * w * (1.0 + (x - result) / gamma) for w, x in zip(weights, tensors, strict=True))

        return result, gradient

    return lambda *tensors: soft_maximum(*tensors) if len(tensors) > 1 else tensors[0]


def class_logits(rows, proxies, aggregate=nearest):
    """Logits of rows (N, D) with classes of K proxies (C, K, D): `(N, C)`.

    Args:
        rows: `(N, D)` float tensor.
        proxies: `(C, K, D)` float tensor.
        aggregate: function of K tensors of inner products giving the logits.
    """
    return aggregate(*[dot_products(rows, proxies[:, place]) for place in range(proxies.shape[1])])


def target_logits(rows, proxies, labels, aggregate=nearest):
    """`(N,)` logits of the rows with their own classes; arguments as above, and `(N,)` labels.

    Looked up among the proxies: the gradient of a look-up among the `(N, C)` logits is as large as these.
    """
    own = ops.take(proxies, labels, axis=0)
    return aggregate(*[ops.sum(rows * own[:, place], axis=1) for place in range(proxies.shape[1])])


def sums_of_classes(x, labels, classes: int):
    """`(C, ...)` sums of the entries `(N, ...)` of each class; Keras' own segment sum takes float32 on PyTorch."""
    return ops.scatter_update(ops.zeros((classes, *x.shape[1:]), dtype=x.dtype), labels[:, None], x, reduction="add")


def mean_of_others(rows, proxies, labels):
    """`(N,)` means of the logits with the single proxies of all other classes, at least one, without any of them."""
    others = ops.sum(proxies, axis=(0, 1)) - ops.sum(ops.take(proxies, labels, axis=0), axis=1)
    count = (ops.shape(proxies)[0] - 1) * proxies.shape[1]
    return ops.sum(rows * others, axis=1) / ops.cast(count, rows.dtype)


def split_target_logit(logits, ids, labels):
    """`(N,)` own logits and log-sum-exps of the others, out of the `(N, B)` logits with classes `ids`.

    Where the own class is not among these its logit is 0; without any other the log-sum-exp is far below 0.
    """
    mine = ids[None, :] == labels[:, None]
    own = ops.sum(ops.where(mine, logits, ops.zeros_like(logits)), axis=1)
    return own, ops.logsumexp(ops.where(mine, lowest(logits), logits), axis=1)


def logsumexp_of_others(rows, proxies, labels, aggregate=nearest):
    """`(N,)` log-sum-exps of the logits of the rows with all classes but their own; far below 0 without any."""

    def of_part(ids, proxies, rows):
        return split_target_logit(class_logits(rows, proxies, aggregate), ids, labels)[1][None, :]

    held = (rows.shape[0], proxies.shape[1])
    return ops.logsumexp(over_classes(of_part, (proxies,), rows, held=held), axis=0)


def target_and_others(rows, proxies, labels, aggregate=nearest):
    """Own logits and log-sum-exps of the others; from all logits where these are fewer than what own proxies have.

    Arguments as above; both `(N,)`.
    """
    classes, each, dim = proxies.shape
    if isinstance(classes, int) and classes <= each * dim and _at_once((rows.shape[0], each), classes):
        return split_target_logit(class_logits(rows, proxies, aggregate), ops.arange(classes, dtype="int32"), labels)
    return target_logits(rows, proxies, labels, aggregate), logsumexp_of_others(rows, proxies, labels, aggregate)


def logsumexp_of_all(rows, proxies):
    """`(N,)` log-sum-exps of the logits of the rows with all classes of one proxy."""

    def of_part(_, proxies, rows):
        return ops.logsumexp(class_logits(rows, proxies), axis=1)[None, :]

    return ops.logsumexp(over_classes(of_part, (proxies,), rows, held=(rows.shape[0], 1)), axis=0)


def over_classes(function, classes, *others, held: tuple[Any, int]):
    """What a function gives for all classes, a part of them at a time where it would hold too many numbers.

    Parts are computed again for the gradient, so that memory stays that of one part.

    Args:
        function: of the `(B,)` ids of some classes, what there is of `classes` for them, and `others`; gradients reach
            what it has as arguments. What it gives for the parts is put together along the first axis.
        classes: tuple of `(C, ...)` float tensors.
        others: float tensors.
        held: rows N, no number where they are not known yet, and how many `(N, C)` tensors the function holds beside
            those of a log-sum-exp.
    """
    count, size = held[0], classes[0].shape[0]
    ids = ops.arange(ops.shape(classes[0])[0], dtype="int32")
    if _at_once(held, size):
        return function(ids, *classes, *others)

    def of_block(block):
        ids, *classes = block
        return keras.remat(lambda *tensors: function(ids, *tensors))(*classes, *others)

    each = min(size, max(_LEAST_PART, _HELD_IN_PARTS // (count * (held[1] + _HELD_FOR_SUM))))
    end = size // each * each
    found = ops.map(of_block, tuple(ops.reshape(x[:end], (-1, each, *x.shape[1:])) for x in (ids, *classes)))
    found = ops.reshape(found, (-1, *found.shape[2:]))
    return found if end == size else ops.concatenate([found, of_block([x[end:] for x in (ids, *classes)])], axis=0)


def _at_once(held, size) -> bool:
    """Whether all classes may be taken at once, or must: a size may be None or, on JAX, a symbol."""
    count, each = held
    known = isinstance(count, int) and isinstance(size, int)
    return not known or count * size * (each + _HELD_FOR_SUM) <= _MOST_HELD
