"""A tiny trunk with weights of its own, as pretrained ones are: `trunks:convolution`."""

import keras


def convolution(pixels, weights=None, channels: int = 9):
    """One convolution with the same weights in every process."""
    start = keras.initializers.RandomNormal(stddev=0.1, seed=4)
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    return keras.layers.Conv2D(channels, 3, strides=2, activation="relu", kernel_initializer=start)(scaled)
