"""Batch normalisation in weights that are held still: its statistics stay, too."""

from types import TracebackType

import keras

from anchorage.training.optimizers import RateFactors


class FrozenNorms(keras.callbacks.Callback):
    """While entered, has batch normalisation use its stored statistics as long as the optimizer holds its layer still.

    Without it a frozen trunk would drift: its running means follow the batches whatever the learning rate. The scales
    and offsets of such a layer are the optimizer's affair, like all weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: list[keras.layers.BatchNormalization] = []

    def __enter__(self) -> "FrozenNorms":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def on_train_begin(self, logs=None):
        self._update()

    def on_train_batch_end(self, batch, logs=None):
        if self._held:
            self._update()

    def _release(self) -> None:
        for layer in self._held:
            layer.trainable = True
        self._held = []

    def _update(self) -> None:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not isinstance(optimizer, RateFactors):
            return
        before = self._held
        held = [
            layer
            for layer in self.model.encoder._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            and (layer.trainable or layer in before)  # the others are never let go
            and optimizer.holds(layer.moving_mean.path)
        ]
        if held == before:
            return
        self._release()
        for layer in held:
            scales = layer.trainable_weights
            layer.trainable = False  # makes Keras take the stored statistics
            for weight in scales:
                weight.trainable = True  # but the learner must have the same trainable weights all the time
        self._held = held
        self.model.make_train_function(force=True)
