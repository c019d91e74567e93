"""Batch normalization of frozen layers in inference mode."""

from types import TracebackType

import keras

from anchorage.training.optimizers import RateFactors


class FrozenNorms(keras.callbacks.Callback):
    """Runs batch normalization with its moving statistics while the optimizer freezes the layer.

    Otherwise a frozen trunk would drift, since moving averages are updated at any learning rate. Scales and offsets are
    trained or frozen by the optimizer, like all other weights. Use it as a context manager and callback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[keras.layers.BatchNormalization] = []

    def __enter__(self) -> "FrozenNorms":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def on_train_begin(self, logs=None):
        self._update()

    def on_train_batch_end(self, batch, logs=None):
        if self._frozen:
            self._update()

    def _release(self) -> None:
        for layer in self._frozen:
            layer.trainable = True
        self._frozen = []

    def _update(self) -> None:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if not isinstance(optimizer, RateFactors):
            return
        before = self._frozen
        frozen = [
            layer
            for layer in self.model.encoder._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            and (layer.trainable or layer in before)  # others were frozen by the user and stay so
            and optimizer.is_frozen(layer.moving_mean.path)
        ]
        if frozen == before:
            return
        self._release()
        for layer in frozen:
            weights = layer.trainable_weights
            layer.trainable = False  # makes Keras use the moving statistics
            for weight in weights:
                weight.trainable = True  # the optimizer needs the same trainable weights at every step
        self._frozen = frozen
        self.model.make_train_function(force=True)
