"""Several devices training as one: the loss sees the whole batch, whichever replica embedded a row."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import keras

from anchorage.errors import UsageError

_SUMMED = ("float16", "float32", "float64", "int32", "int64")  # types that devices can add up between them

# Several machines ("multi_worker") and TPUs are not among them: Keras 3 does not support the first strategy (its `fit`
# fails on it before the first step), and leaves the variables of the second without the synchronisation they want.
STRATEGIES: dict[str, Callable[[Any], Any]] = {
    "mirrored": lambda tf: tf.distribute.MirroredStrategy(
        [device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    ),
}


def strategy_scope(name: str) -> AbstractContextManager:
    """Where a learner must be built and trained to run on all devices of a `tf.distribute` strategy.

    Args:
        name: `""` for one device; `"mirrored"` for all GPUs of this machine (all logical CPUs if it has none).

    Raises:
        UsageError: E_NAME_UNKNOWN, or E_BACKEND on another Keras backend than TensorFlow.
    """
    if not name:
        return nullcontext()
    if name not in STRATEGIES:
        raise UsageError(
            "E_NAME_UNKNOWN",
            f"Unknown strategy {name!r}. Known: {sorted(STRATEGIES)}; Keras 3 has no support for several machines.",
        )
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "E_BACKEND",
            f"A strategy wants Keras on TensorFlow. Received: strategy={name!r} on {keras.backend.backend()}",
        )
    return _strategy(name).scope()


@cache  # a second one in the same process would mix up its collectives with those of the first
def _strategy(name: str):
    import tensorflow as tf

    return STRATEGIES[name](tf)


def replicas() -> int:
    """How many replicas train in step; 1 outside a strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def gather_rows(tensors: Any) -> Any:
    """Join the rows of all replicas, in their order; gradients find their way back to each.

    Args:
        tensors: nested structure of tensors `(n, ...)`, n rows on each replica.

    Returns:
        The same structure of tensors `(n * replicas, ...)`; the tensors themselves with one replica.
    """
    if replicas() == 1:
        return tensors
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return tensors if context is None else keras.tree.map_structure(lambda t: _gather(tf, context, t), tensors)


def _gather(tf, context, rows):
    """Each replica puts its rows in its own place among zeros; the sum over replicas holds them all.

    `all_gather` would say the same but loses the static shape, and runs on fewer devices.
    """
    dtype = rows.dtype
    if dtype not in _SUMMED:  # holds every value of the types that devices do not sum
        rows = tf.cast(rows, tf.float32 if dtype.is_floating else tf.int32)
    count, place = context.num_replicas_in_sync, context.replica_id_in_sync_group
    sizes = [[tf.shape(rows)[0] * before, *[0] * (len(rows.shape) - 1)] for before in (place, count - 1 - place)]
    padded = tf.pad(rows, tf.transpose(tf.convert_to_tensor(sizes)))
    everyone = context.all_reduce(tf.distribute.ReduceOp.SUM, padded)
    known = None if rows.shape[0] is None else rows.shape[0] * count
    return tf.cast(tf.ensure_shape(everyone, [known, *rows.shape[1:]]), dtype)


def synchronize_norms(model: keras.Model) -> None:
    """Have batch normalisation take mean and variance over all replicas, which would drift apart else."""
    if replicas() > 1:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True


def sum_over_replicas(gradients: Sequence[Any]) -> list[Any]:
    """The gradients of the whole batch, on every replica: sums of what each has, which may be None."""
    gradients = list(gradients)
    if replicas() == 1:
        return gradients
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:  # outside of a replica's step there is but one gradient
        return gradients
    found = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, found))
    return [gradient if gradient is None else next(sums) for gradient in gradients]
