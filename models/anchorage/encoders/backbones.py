"""Trunks: they map images with values 0 to 255 to a feature map."""

import inspect
import sys
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from anchorage.errors import ResourceError, UsageError


@keras.saving.register_keras_serializable(package="anchorage")
class ScalePixels(layers.Layer):
    """Rescales pixels: `pixels * scale + offset`, per channel, after an optional swap from RGB to BGR.

    Args:
        scale: factor, a number or one per channel of the result.
        offset: what is added, a number or one per channel of the result.
        reverse: whether to swap red and blue, for networks that were trained on BGR.

    Call arguments:
        pixels: `(N, H, W, 3)` tensor of numbers from 0 to 255.

    Returns:
        float32 tensor of the same shape.

    Example:
        >>> ScalePixels(scale=1 / 128, offset=-127 / 128)(keras.ops.array([[[[127.0, 255.0, -1.0]]]])).numpy().tolist()
        [[[[0.0, 1.0, -1.0]]]]
    """

    def __init__(self, scale=1.0, offset=0.0, reverse: bool = False, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.scale = np.asarray(scale, "float32").tolist()
        self.offset = np.asarray(offset, "float32").tolist()
        self.reverse = reverse

    def call(self, pixels):
        pixels = ops.cast(pixels, "float32")
        if self.reverse:
            pixels = ops.flip(pixels, axis=-1)
        return pixels * ops.array(self.scale, "float32") + ops.array(self.offset, "float32")

    def compute_output_shape(self, pixels_shape):
        return pixels_shape

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "offset": self.offset, "reverse": self.reverse}


def small_trunk(pixels, weights: str | None = None, widths: Sequence[int] = (32, 64, 128, 256), momentum: float = 0.9):
    """A small convolutional network for small images; 1.2 million weights with the default widths.

    The first stage has one 3x3 convolution with batch normalization and ReLU, each later stage two, with 2x2 max
    pooling between stages.

    Args:
        pixels: symbolic `(N, S, S, 3)` tensor, values 0 to 255.
        weights: must be None: there are no stored weights.
        widths: channels of each stage.
        momentum: of the running statistics in batch normalization; short trainings need it well below 1.

    Returns:
        Symbolic `(N, S / 2^(stages - 1), ..., widths[-1])` tensor.

    Raises:
        UsageError: if stored weights are asked for, or `S` is too small for the stages.
    """
    if weights is not None:
        raise UsageError("E_ENCODER_WEIGHTS", f"Encoder 'small' has no stored weights. Received: weights={weights!r}")
    if pixels.shape[1] < 2 ** (len(widths) - 1):
        least = 2 ** (len(widths) - 1)
        raise UsageError(
            "E_IMAGE_SIZE", f"{len(widths)} stages need an image size of at least {least}. Received: {pixels.shape[1]}"
        )
    features = ScalePixels(scale=1 / 127.5, offset=-1.0, name="scale_pixels")(pixels)
    for stage, width in enumerate(widths):
        if stage:
            features = layers.MaxPooling2D(name=f"halve_{stage}")(features)
        for step in range(min(stage + 1, 2)):
            name = f"stage_{stage}_{step}"
            features = layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)(features)
            features = layers.BatchNormalization(momentum=momentum, name=f"{name}_norm")(features)
            features = layers.ReLU(name=f"{name}_relu")(features)
    return features


def application_names() -> list[str]:
    """Names of the networks in `keras.applications`, such as `"ResNet50"`."""
    return sorted(n for n, f in vars(keras.applications).items() if inspect.isfunction(f))


def application_trunk(name: str, pixels, weights: str | None = None, **params):
    """A network of `keras.applications`, without its classifier.

    The model rescales pixels itself, with the numbers of Keras' own `preprocess_input`.

    Args:
        name: of the function in `keras.applications`.
        pixels: symbolic `(N, S, S, 3)` tensor, values 0 to 255.
        weights: None, `"imagenet"` (downloaded or cached by Keras) or the path of a weights file.
        params: further arguments of the network's function, such as `alpha` of MobileNet.

    Returns:
        Symbolic `(N, H, W, C)` tensor.

    Raises:
        UsageError: E_PARAMETER_UNKNOWN.
        ValueError: if the network does not take a value or the image size.
        ResourceError: E_ENCODER_WEIGHTS if the weights are not in Keras' cache and cannot be downloaded.
    """
    build = getattr(keras.applications, name)
    fixed = {
        "include_top",
        "weights",
        "input_tensor",
        "input_shape",
        "pooling",
        "classes",
        "classifier_activation",
        "name",
    }
    takes = sorted(set(inspect.signature(build).parameters) - fixed)
    unknown = sorted(set(params) - set(takes))
    if unknown:
        raise UsageError("E_PARAMETER_UNKNOWN", f"Encoder {name!r} takes {takes}. Received unknown: {unknown}")
    scaling = measure_scaling(sys.modules[build.__module__].preprocess_input)
    try:
        trunk = build(include_top=False, weights=weights, input_shape=tuple(pixels.shape[1:]), **params)
    except ValueError:
        raise
    except Exception as error:  # Keras raises what the socket, the proxy or the file did
        raise ResourceError(
            "E_ENCODER_WEIGHTS",
            f"The {weights!r} weights of {name} could not be loaded: {error}. "
            f"Put Keras' file into ~/.keras/models, allow the network, or leave `weights` out.",
        ) from error
    return trunk(ScalePixels(**scaling, name="scale_pixels")(pixels))


def measure_scaling(preprocess) -> dict:
    """Read scale, offset and channel order off a function that scales pixels: arguments for `ScalePixels`.

    Args:
        preprocess: from `(1, 1, 1, 3)` pixels to the same shape, an affine function of each channel.
    """

    def answer(pixel):
        return np.asarray(preprocess(np.array([[[pixel]]], "float32")), "float64").reshape(3)

    offset = answer([0.0, 0.0, 0.0])
    slopes = np.stack([answer(255.0 * row) - offset for row in np.eye(3)]) / 255.0
    reverse = bool(slopes[0, 2])
    scale = np.diagonal(slopes[::-1] if reverse else slopes)
    return {"scale": scale.tolist(), "offset": offset.tolist(), "reverse": reverse}
