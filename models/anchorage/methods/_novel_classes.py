"""What the methods that invent classes share: which losses can take them, and the step that holds them."""

import keras
from keras import ops

from anchorage.errors import UsageError
from anchorage.losses.base import call_arguments
from anchorage.methods.method import Step


def check_takes_novel_classes(loss: keras.layers.Layer) -> None:
    """Refuse a loss that cannot take further classes for one call.

    Raises:
        UsageError: E_METHOD_LOSS unless its `call` takes `novel_proxies` and it has one proxy for each class.
    """
    able = "novel_proxies" in call_arguments(loss)
    if able and loss.proxies.shape[0] == loss.num_classes:
        return
    from anchorage.losses import LOSSES

    names = sorted(name for name, cls in LOSSES.items() if "novel_proxies" in call_arguments(cls))
    received = f"{loss.proxies.shape[0]} proxies of {loss.num_classes} classes" if able else type(loss).__name__
    raise UsageError(
        "E_METHOD_LOSS",
        f"Novel classes need a loss with one proxy for each class, one of {names}. Received: {received}",
    )


def with_novel_classes(step: Step, num_classes: int, rows, labels, proxies) -> Step:
    """The step with rows of novel classes after its own.

    Args:
        step: the step as it is.
        num_classes: number of known classes; the first novel one gets this label.
        rows: `(M, D)` embeddings.
        labels: `(M,)` int32 places of their proxies in `proxies`.
        proxies: `(K, D)`, one for each novel class.
    """
    return step.replaced(
        ops.concatenate([ops.cast(step.embeddings, rows.dtype), rows], axis=0),
        ops.concatenate([step.labels, ops.cast(labels + num_classes, step.labels.dtype)], axis=0),
        novel_proxies=proxies,
    )
