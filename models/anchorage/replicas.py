"""Data-parallel training on several devices, with the loss computed on the global batch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import keras

from anchorage.errors import UsageError

_REDUCIBLE = ("float16", "float32", "float64", "int32", "int64")  # dtypes that all-reduce supports

# Several machines and TPUs are not supported: in Keras 3, `fit` fails before the first step with
# `MultiWorkerMirroredStrategy`, and variables lack the synchronization that `TPUStrategy` needs. Keras on JAX trains on
# several machines: see `anchorage.processes`.
STRATEGIES: dict[str, Callable[[Any], Any]] = {
    "mirrored": lambda tf: tf.distribute.MirroredStrategy(
        [device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    ),
}


def strategy_scope(name: str) -> AbstractContextManager:
    """Return the scope in which a learner is built and trained on all devices of a `tf.distribute` strategy.

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
            f"Unknown strategy {name!r}. Known: {sorted(STRATEGIES)}; Keras 3 has no support for several machines "
            "on TensorFlow. On JAX it has: see `anchorage.processes`.",
        )
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "E_BACKEND",
            f"Expected the TensorFlow backend of Keras for a strategy. Received: strategy={name!r} on "
            f"{keras.backend.backend()}",
        )
    return _strategy(name).scope()


@cache  # a second instance in the same process would share the collective keys of the first
def _strategy(name: str):
    import tensorflow as tf

    return STRATEGIES[name](tf)


def replicas() -> int:
    """Return the number of replicas in sync; 1 outside a strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def gather_rows(tensors: Any) -> Any:
    """Concatenate the rows of all replicas, in replica order; gradients flow back to the replica of each row.

    Args:
        tensors: nested structure of tensors `(n, ...)`, with n rows on each replica.

    Returns:
        The same structure of tensors `(n * replicas, ...)`; with one replica, the tensors unchanged.
    """
    if replicas() == 1:
        return tensors
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return tensors if context is None else keras.tree.map_structure(lambda t: _gather(tf, context, t), tensors)


def _gather(tf, context, rows):
    """Gather rows as a sum over replicas, each of which pads its rows with zeros to the global batch.

    `all_gather` loses the static shape and supports fewer devices.
    """
    dtype = rows.dtype
    if dtype not in _REDUCIBLE:  # all other dtypes fit into float32 or int32 without loss
        rows = tf.cast(rows, tf.float32 if dtype.is_floating else tf.int32)
    count, replica = context.num_replicas_in_sync, context.replica_id_in_sync_group
    sizes = [[tf.shape(rows)[0] * others, *[0] * (len(rows.shape) - 1)] for others in (replica, count - 1 - replica)]
    padded = tf.pad(rows, tf.transpose(tf.convert_to_tensor(sizes)))
    gathered = context.all_reduce(tf.distribute.ReduceOp.SUM, padded)
    static_rows = None if rows.shape[0] is None else rows.shape[0] * count
    return tf.cast(tf.ensure_shape(gathered, [static_rows, *rows.shape[1:]]), dtype)


def synchronize_norms(model: keras.Model) -> None:
    """Make batch normalization use mean and variance of the global batch, so that replicas do not drift apart."""
    if replicas() > 1:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True


def sum_over_replicas(gradients: Sequence[Any]) -> list[Any]:
    """Sum gradients over replicas, which gives every replica those of the global batch; None stays None."""
    gradients = list(gradients)
    if replicas() == 1:
        return gradients
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:  # outside of a replica's step there is nothing to sum over
        return gradients
    present = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [gradient if gradient is None else next(sums) for gradient in gradients]
