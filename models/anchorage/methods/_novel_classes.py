"""Shared by methods that synthesize novel classes: the check of the loss and the extended training step."""

import keras
from keras import ops

from anchorage.errors import UsageError
from anchorage.losses.base import call_arguments
from anchorage.methods.method import Step


def check_takes_novel_classes(loss: keras.layers.Layer) -> None:
    """Raise unless a loss accepts additional classes for one call.

    Raises:
        UsageError: E_METHOD_LOSS unless its `call` takes `novel_proxies` and it has one proxy per class.
    """
    supported = "novel_proxies" in call_arguments(loss)
    if supported and loss.proxies.shape[0] == loss.num_classes:
        return
    from anchorage.losses import LOSSES

    names = sorted(name for name, cls in LOSSES.items() if "novel_proxies" in call_arguments(cls))
    received = f"{loss.proxies.shape[0]} proxies of {loss.num_classes} classes" if supported else type(loss).__name__
    raise UsageError(
        "E_METHOD_LOSS",
        f"Expected a loss with one proxy per class that accepts novel classes, one of {names}. Received: {received}",
    )


def with_novel_classes(step: Step, num_classes: int, rows, labels, proxies) -> Step:
    """Append embeddings of novel classes to a step.

    Args:
        step: the original step.
        num_classes: number of real classes; the first novel class gets this label.
        rows: `(M, D)` embeddings of the novel classes.
        labels: `(M,)` int32 rows of `proxies`.
        proxies: `(K, D)`, one per novel class.
    """
    return step.replaced(
        ops.concatenate([ops.cast(step.embeddings, rows.dtype), rows], axis=0),
        ops.concatenate([step.labels, ops.cast(labels + num_classes, step.labels.dtype)], axis=0),
        novel_proxies=proxies,
    )
