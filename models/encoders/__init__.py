"""Encoders by the name an experiment file uses: images in, embeddings out."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial

import keras

from models.encoders.backbones import application_names, application_trunk, small_trunk
from models.encoders.efficientnet_lite import efficientnet_lite0
from models.encoders.heads import attach_head
from models.errors import UsageError

ENCODERS: dict[str, Callable] = {
    "efficientnet_lite0": efficientnet_lite0,
    "small": small_trunk,
}


def create_encoder(
    name: str,
    *,
    image_size: int,
    embedding_size: int,
    pooling: str = "avg",
    normalize: bool = True,
    weights: str | None = None,
    frozen_norm: bool = False,
    raw: bool = False,
    **params,
) -> keras.Model:
    """Make an encoder: trunk, pooling, projection and, by default, rows of unit length.

    Args:
        name: a key of `ENCODERS`, the name of a network in `keras.applications`, such as `"ResNet50"`, or
            `"package.module:function"`, a function called as `function(pixels, weights=..., **params)`.
        image_size: height and width S of an image, in pixels.
        embedding_size: length D of an embedding.
        pooling: how the feature map becomes one row: `"avg"`, `"max"` or `"gem"`.
        normalize: whether embeddings get unit length.
        weights: None for random weights, `"imagenet"` for stored ones where the trunk has them.
        frozen_norm: whether batch normalisation keeps its stored statistics and scales, as with stored weights and
            small batches.
        raw: whether embeddings come in a dict, `embeddings` as ever and `raw` before unit length.
        params: arguments of the trunk, such as `widths` of `small`.

    Returns:
        Model from `(N, S, S, 3)` pixels, 0 to 255, uint8 or float, to `(N, D)` float32 embeddings; all scaling
        of pixels happens inside. Its layer `trunk` holds everything before the head.

    Raises:
        UsageError: E_NAME_UNKNOWN, E_PARAMETER_UNKNOWN, E_ENCODER_WEIGHTS or E_IMAGE_SIZE.
        ValueError: if a value is out of range.

    Example:
        >>> create_encoder("small", image_size=32, embedding_size=16).output_shape
        (None, 16)
    """
    pixels = keras.Input((image_size, image_size, 3), name="images")
    trunk = keras.Model(pixels, _trunk_of(name, params)(pixels, weights=weights), name="trunk")
    if frozen_norm:
        for layer in trunk._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    images = keras.Input((image_size, image_size, 3), name="images")
    embeddings = attach_head(trunk(images), embedding_size, pooling, normalize, raw)
    return keras.Model(images, embeddings, name="encoder")


def _trunk_of(name: str, params: dict) -> Callable:
    if name in application_names():
        return partial(application_trunk, name, **params)
    trunk = ENCODERS[name] if name in ENCODERS else _imported(name)
    takes = [p for p in inspect.signature(trunk).parameters if p not in ("pixels", "weights")]
    unknown = sorted(set(params) - set(takes))
    if unknown:
        raise UsageError("E_PARAMETER_UNKNOWN", f"Encoder {name!r} takes {takes}. Received unknown: {unknown}")
    return partial(trunk, **params)


def _imported(name: str) -> Callable:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        known = f"{sorted(ENCODERS)}, a network of keras.applications such as 'ResNet50', or 'package.module:function'"
        raise UsageError("E_NAME_UNKNOWN", f"Unknown encoder {name!r} ({error}). Known: {known}") from error
    if not callable(found):
        raise UsageError("E_NAME_UNKNOWN", f"Expected a function that makes a trunk. Received: {name!r} is {found!r}")
    return found
