"""Ensemble of losses with learned weights: Zabihzadeh, Alitbi & Mousavirad, MTAP 2023; the weights in the embedding."""

import keras

from anchorage.encoders.ensemble_head import WeightedConcatenation
from anchorage.errors import UsageError
from anchorage.losses.ensemble import EnsembleLoss
from anchorage.methods.method import Method


@keras.saving.register_keras_serializable(package="anchorage")
class LearnedConcatenation(Method):
    """Copies the learned weights of the ensemble loss to the encoder's concatenation of heads.

    After every step and epoch, the shares of `WeightedConcatenation` equal the weights learned by `EnsembleLoss`, so
    that validation and the exported encoder use the weighted distances. The loss does not change.

    Raises:
        UsageError: E_METHOD_LOSS unless the loss is `ensemble`; E_METHOD_ENCODER unless the encoder has the head
            `ensemble`.
    """

    def prepare(self, learner):
        loss = learner.loss_layer
        if not isinstance(loss, EnsembleLoss):
            raise UsageError("E_METHOD_LOSS", f"Expected the loss 'ensemble'. Received: {type(loss).__name__}")
        heads = [layer for layer in learner.encoder.layers if isinstance(layer, WeightedConcatenation)]
        if not heads:
            raise UsageError(
                "E_METHOD_ENCODER",
                f"Expected an encoder with the head 'ensemble' and members = {len(loss.members)}, one for each loss. "
                "Received: another head",
            )
        # A closure, as Keras would save layers in an attribute a second time.
        self._copy_weights = lambda: heads[0].shares.assign(keras.ops.stop_gradient(loss.weights_of_members()))

    def loss(self, step, inner):
        value = inner(step)
        self._copy_weights()
        return value

    def start(self, context):
        self._copy_weights()

    def after_epoch(self, context, logs):
        self._copy_weights()
