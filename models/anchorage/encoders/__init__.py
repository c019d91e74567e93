"""Encoders by the name that an experiment file uses: they map images to embeddings."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras

from anchorage.encoders.backbones import application_names, application_trunk, small_trunk
from anchorage.encoders.efficientnet_lite import efficientnet_lite0
from anchorage.encoders.ensemble_head import attach_ensemble_head
from anchorage.encoders.global_local import attach_global_local_head
from anchorage.encoders.heads import attach_head, attach_identity_head
from anchorage.encoders.hub import PREFIX, hub_trunk
from anchorage.errors import UsageError
from anchorage.registry import create, import_named, nearest
from anchorage.user_code import user_code

ENCODERS: dict[str, Callable] = {
    "efficientnet_lite0": efficientnet_lite0,
    "small": small_trunk,
}
HEADS: dict[str, Any] = {
    "ensemble": attach_ensemble_head,
    "global_local": attach_global_local_head,
    "identity": attach_identity_head,
    "plain": attach_head,
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
    head: Mapping[str, Any] | None = None,
    **params,
) -> keras.Model:
    """Create an encoder: trunk, pooling, projection and, by default, normalization to unit length.

    Args:
        name: a key of `ENCODERS`; a network of `keras.applications`, such as `"ResNet50"`; a preset of KerasHub, such
            as `"hub:dinov2_small"`; or `"package.module:function"`, for `function(pixels, weights=..., **params)`.
        image_size: height and width S of an image, in pixels.
        embedding_size: length D of an embedding; the head `identity` keeps the width of the features instead.
        pooling: how a feature map becomes one vector: `"avg"`, `"max"` or `"gem"`; `"token"` for the class token of a
            vision transformer. The head `global_local` pools in its own way.
        normalize: whether embeddings get unit length.
        weights: None for random weights, `"imagenet"` for pretrained ones where the trunk has them, the folder of a
            preset of KerasHub.
        frozen_norm: whether batch normalization keeps its stored statistics and scales, as is usual with pretrained
            weights and small batches.
        raw: whether to return a dict with `embeddings` and, as `raw`, the embeddings before normalization.
        head: the part between trunk and embeddings: `name`, a key of `HEADS`, and `params`; by default `plain`.
        params: arguments of the trunk, such as `widths` of `small`.

    Returns:
        Model from `(N, S, S, 3)` pixels, 0 to 255, uint8 or float, to `(N, D)` float32 embeddings. It scales pixels
        itself. Its layer `trunk` holds everything before the head. The heads `ensemble` and `global_local` return a
        dict with `embeddings` and what their losses need.

    Raises:
        UsageError: E_NAME_UNKNOWN, E_PARAMETER_UNKNOWN, E_ENCODER_WEIGHTS, E_IMAGE_SIZE or E_POOLING; E_USER_CODE for
            any error in a function of the user's.
        ValueError: if a value is out of range.

    Example:
        >>> create_encoder("small", image_size=32, embedding_size=16).output_shape
        (None, 16)
    """
    pixels = keras.Input((image_size, image_size, 3), name="images")
    make_trunk = _trunk_of(name, params, pooling)
    with user_code("" if name.startswith(PREFIX) else name):
        trunk = keras.Model(pixels, make_trunk(pixels, weights=weights), name="trunk")
    if frozen_norm:
        for layer in trunk._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    images = keras.Input((image_size, image_size, 3), name="images")
    facts = {"trunk": trunk, "images": images, "features": trunk(images), "embedding_size": embedding_size}
    facts |= {"pooling": pooling, "normalize": normalize, "raw": raw}
    head = head or {"name": "plain"}
    return keras.Model(images, create(HEADS, head["name"], head.get("params"), facts), name="encoder")


def create_head(
    dimension: int,
    *,
    embedding_size: int,
    normalize: bool = True,
    raw: bool = False,
    head: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Create the head of an encoder alone, over pooled features of a trunk.

    Args:
        dimension: length C of the features.
        embedding_size: see `create_encoder`, like the arguments below.
        normalize: see there.
        raw: see there.
        head: see there; one that takes pooled features.

    Returns:
        Model from `(N, C)` float32 features to what `create_encoder` gives.

    Raises:
        UsageError: E_NAME_UNKNOWN, E_PARAMETER_UNKNOWN, E_PARAMETER_MISSING, E_USER_CODE.
        ValueError: if a value is out of range.

    Example:
        >>> create_head(32, embedding_size=16).output_shape
        (None, 16)
    """
    features = keras.Input((dimension,), name="features")
    facts = {"features": features, "embedding_size": embedding_size}
    facts |= {"pooling": "token", "normalize": normalize, "raw": raw}  # the features are one row for each image
    head = head or {"name": "plain"}
    return keras.Model(features, create(HEADS, head["name"], head.get("params"), facts), name="encoder")


def _trunk_of(name: str, params: dict, pooling: str) -> Callable:
    if name in application_names():
        return partial(application_trunk, name, **params)
    if name.startswith(PREFIX):
        trunk: Callable = partial(hub_trunk, name.removeprefix(PREFIX), pooling=pooling)
    else:
        trunk = ENCODERS[name] if name in ENCODERS else _imported(name)
    takes = [p for p in inspect.signature(trunk).parameters if p not in ("pixels", "weights", "pooling")]
    unknown = sorted(set(params) - set(takes))
    if unknown:
        raise UsageError("E_PARAMETER_UNKNOWN", f"Encoder {name!r} takes {takes}. Received unknown: {unknown}")
    return partial(trunk, **params)


def _imported(name: str) -> Callable:
    if ":" not in name:
        known = f"{sorted(ENCODERS)}, a network of keras.applications such as 'ResNet50', or 'package.module:function'"
        raise UsageError("E_NAME_UNKNOWN", f"Unknown encoder {name!r}. Known: {known}.{nearest(name, ENCODERS)}")
    found = import_named(name)
    if not callable(found):
        raise UsageError("E_NAME_UNKNOWN", f"Expected a function that makes a trunk. Received: {name!r} is {found!r}")
    return found


__all__ = ["ENCODERS", "HEADS", "create_encoder", "create_head"]
