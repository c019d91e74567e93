"""A random seed generator whose state is saved with the model."""

import keras


class SavedSeedGenerator(keras.layers.Layer):
    """Wraps a Keras `SeedGenerator` and saves its state, which Keras does not save with a model.

    Args:
        seed: initial seed.
    """

    def __init__(self, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(seed % 2**31)  # JAX takes 32 bits, PyTorch 31 and a sign
        self.built = True

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["state"] = self.generator.state.numpy()

    def load_own_variables(self, store):
        self.generator.state.assign(store["state"][()])
