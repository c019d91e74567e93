"""Lets a method compare the batch with other embeddings in a pair loss."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from anchorage.errors import UsageError
from anchorage.geometry import ball_rows, unit_rows
from anchorage.losses.base import call_arguments
from anchorage.methods.method import Step
from anchorage.pairs.references import References

# Applied to the embeddings and their references before the loss.
NORMALIZERS: dict[str, Callable[[Any], Any]] = {
    "lipschitz": ball_rows,
    "unit": unit_rows,
    "none": ops.convert_to_tensor,
}


def check_normalizer(normalizer: str) -> str:
    """Return `normalizer`, or raise a `ValueError` if it is not one of `NORMALIZERS`."""
    if normalizer not in NORMALIZERS:
        raise ValueError(f"`normalizer` must be one of {sorted(NORMALIZERS)}. Received: normalizer={normalizer!r}")
    return normalizer


def check_pair_loss(learner: keras.Model, normalizer: str) -> None:
    """Raise unless the loss of the learner accepts references and keeps the norms set by the normalizer.

    Raises:
        UsageError: E_LOSS_NOT_OVER_PAIRS, or E_LOSS_NORMALIZES if the loss would undo the normalizer.
    """
    loss = learner.loss_layer
    if "references" not in call_arguments(type(loss)):
        from anchorage.losses import LOSSES

        names = sorted(name for name, cls in LOSSES.items() if "references" in call_arguments(cls))
        raise UsageError("E_LOSS_NOT_OVER_PAIRS", f"Expected a loss over pairs, one of {names}. Received: {loss.name}")
    if normalizer != "unit" and getattr(loss, "normalize", False):
        raise UsageError(
            "E_LOSS_NORMALIZES",
            f"`normalizer` {normalizer!r} keeps norms below 1, but the loss normalizes all embeddings. Set "
            "`normalize = false` in the parameters of the loss (with distance = 'dot' in place of cosines), or "
            "`normalizer = 'unit'` in those of the method.",
        )


def compared(step: Step, embeddings, labels, others, other_labels) -> Step:
    """The step for a pair loss with anchors `embeddings` (N, D), compared only with the references `others` (M, D)."""
    same = ops.equal(ops.cast(labels, "int32")[:, None], ops.cast(other_labels, "int32")[None, :])
    references = References(same, ops.logical_not(same), others, other_labels)
    return step.replaced(embeddings, labels, references=references)
