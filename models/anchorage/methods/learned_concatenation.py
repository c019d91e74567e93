"""Ensemble of losses with learned weights: Zabihzadeh, Alitbi & Mousavirad, MTAP 2023; the weights in the embedding."""

import keras

from anchorage.encoders.ensemble_head import WeightedConcatenation
from anchorage.errors import UsageError
from anchorage.losses.ensemble import EnsembleLoss
from anchorage.methods.method import Method


@keras.saving.register_keras_serializable(package="anchorage")
class LearnedConcatenation(Method):
    """Tells the encoder's concatenation of heads how much each loss of the ensemble weighs.

    After every step and every epoch the shares of `WeightedConcatenation` are the weights that `EnsembleLoss` has
    learned, so that what is judged and exported keeps the weighted distances. The loss stays as it is.

    Raises:
        UsageError: E_METHOD_LOSS unless the loss is `ensemble`; E_METHOD_ENCODER unless the encoder has the head
            `ensemble`.
    """

    def prepare(self, learner):
        loss = learner.loss_layer
        if not isinstance(loss, EnsembleLoss):
            raise UsageError("E_METHOD_LOSS", f"Expected the loss 'ensemble'. Received: {type(loss).__name__}")
        found = [layer for layer in learner.encoder.layers if isinstance(layer, WeightedConcatenation)]
        if not found:
            raise UsageError(
                "E_METHOD_ENCODER",
                f"Expected an encoder with the head 'ensemble' and members = {len(loss.members)}, one for each loss. "
                "Received: another head",
            )
        # A layer kept here would be saved a second time.
        self._tell = lambda: found[0].shares.assign(keras.ops.stop_gradient(loss.weights_of_members()))

    def loss(self, step, inner):
        value = inner(step)
        self._tell()
        return value

    def start(self, context):
        self._tell()

    def after_epoch(self, context, logs):
        self._tell()
