"""Random numbers of a loss that go on where they stopped once a saved model is loaded."""

import keras


class SavedSeedGenerator(keras.layers.Layer):
    """Holds a Keras seed generator and saves its state, which Keras leaves out of a saved model.

    Args:
        seed: first seed.
    """

    def __init__(self, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(seed % 2**31)  # JAX takes 32 bits, PyTorch one of them for the sign
        self.built = True

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["state"] = self.generator.state.numpy()

    def load_own_variables(self, store):
        self.generator.state.assign(store["state"][()])
