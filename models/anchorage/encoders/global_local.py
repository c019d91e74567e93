"""Global and local heads with second-order attention: Ebrahimpour, Qian & Beach, WACV 2022.

The attention is that of Ng, Balntas, Tian & Mikolajczyk, "SOLAR", ECCV 2020. The first paper is not openly available;
this follows a secondary description, which does not give the channels of the attention: here a quarter of the local and
half of the global map, as in SOLAR.
"""

import keras
from keras import ops

from anchorage.encoders.heads import check_size, finished
from anchorage.errors import UsageError

_SCALES = ("none", "sqrt")
_VARIANTS = ("plain", "solar")


@keras.saving.register_keras_serializable(package="anchorage")
class SecondOrderAttention(keras.layers.Layer):
    """Self-attention over the positions of a feature map.

    Formula, with the n positions of a map as rows x (n, C) and dense layers q, k, v to M channels and psi back to C:

        A = softmax over each row of  zeta q(x) k(x)^T        divided by sqrt(M) with scale="sqrt"
        result = x + psi(A v(x))

    psi starts at zero, so that the layer starts as the identity.

    Args:
        channels: M, at least 1.
        zeta: sharpness of the attention, at least 0; 0 attends to all positions alike.
        scale: `"none"` or `"sqrt"`.
        variant: `"plain"`, or `"solar"` with batch normalisation and ReLU after q and k, as in SOLAR's code.

    Call arguments:
        features: `(N, H, W, C)` tensor.

    Returns:
        float32 tensor of the same shape.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(self, channels: int, zeta: float = 1.0, scale: str = "none", variant: str = "plain", **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # unscaled products over many channels overflow
        if channels < 1:
            raise ValueError(f"`channels` must be at least 1. Received: channels={channels}")
        if zeta < 0:
            raise ValueError(f"`zeta` must not be negative. Received: zeta={zeta}")
        if scale not in _SCALES:
            raise ValueError(f"`scale` must be one of {_SCALES}. Received: scale={scale!r}")
        if variant not in _VARIANTS:
            raise ValueError(f"`variant` must be one of {_VARIANTS}. Received: variant={variant!r}")
        self.channels = channels
        self.zeta = zeta
        self.scale = scale
        self.variant = variant

    def build(self, features_shape):
        def dense(name, units, start="he_normal"):
            layer = keras.layers.Dense(units, kernel_initializer=start, name=name, dtype=self.dtype_policy)
            layer.build((None, self.channels if name == "output" else features_shape[-1]))
            return layer

        self.query, self.key, self.value = (dense(name, self.channels) for name in ("query", "key", "value"))
        self.outward = dense("output", features_shape[-1], "zeros")
        self.norms = []
        if self.variant == "solar":
            for name in ("query_norm", "key_norm"):
                self.norms.append(keras.layers.BatchNormalization(name=name, dtype=self.dtype_policy))
                self.norms[-1].build((None, None, self.channels))

    def call(self, features, training=None):
        return self.attend(features, training)[1]

    def attend(self, features, training=None):
        """The attention `(N, n, n)` between positions, and the refined map."""
        features = ops.cast(features, self.compute_dtype)
        _, height, width, depth = ops.shape(features)
        rows = ops.reshape(features, (-1, height * width, depth))
        query, key = self.query(rows), self.key(rows)
        if self.norms:
            query, key = (ops.relu(n(x, training=training)) for n, x in zip(self.norms, (query, key), strict=True))
        factor = self.zeta / (self.channels**0.5 if self.scale == "sqrt" else 1.0)
        attention = ops.softmax(factor * ops.matmul(query, ops.transpose(key, (0, 2, 1))), axis=-1)
        refined = rows + self.outward(ops.matmul(attention, self.value(rows)))
        return attention, ops.reshape(refined, (-1, height, width, depth))

    def compute_output_shape(self, features_shape):
        return features_shape

    def get_config(self):
        names = ("channels", "zeta", "scale", "variant")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def attach_global_local_head(
    trunk: keras.Model,
    images,
    embedding_size: int,
    normalize: bool = True,
    raw: bool = False,
    local_layer: str | None = None,
    local_channels: int | None = None,
    global_channels: int | None = None,
    zeta: float = 1.0,
    scale: str | None = None,
    variant: str = "plain",
):
    """Refine a fine and a coarse feature map by attention, and concatenate half an embedding from each.

    The coarse map is the last one of the trunk and does not depend on the attention over the fine one. Pooling is the
    mean plus the maximum over the positions. Meant for the loss `hybrid`.

    Args:
        trunk: from images to a feature map.
        images: symbolic `(N, S, S, 3)` tensor.
        embedding_size: length D of an embedding, an even number.
        normalize: whether embeddings get unit length.
        raw: whether to return the embeddings before normalization, too.
        local_layer: layer of the trunk whose output is the fine map; None for the last one with twice the resolution of
            the coarse map.
        local_channels: of the local attention; None for a quarter of the map's.
        global_channels: of the global attention; None for half of the map's.
        zeta: see `SecondOrderAttention`.
        scale: see there; None for `"sqrt"` with the variant `"solar"`, else `"none"`.
        variant: see there.

    Returns:
        Dict of symbolic float32 tensors: `embeddings` `(N, D)`; `heads` `(N, 2, D / 2)`, the local and the global half
        at unit length; with `raw` also `raw`.

    Raises:
        UsageError: E_ENCODER_LAYER if the trunk has no such layer.
        ValueError: if a value is out of range.
    """
    fine, coarse = with_fine_map(trunk, local_layer)(images)
    channels = (local_channels or max(1, fine.shape[-1] // 4), global_channels or max(1, coarse.shape[-1] // 2))
    attention = {"zeta": zeta, "scale": scale or ("sqrt" if variant == "solar" else "none"), "variant": variant}
    return join_branches(fine, coarse, embedding_size, channels, normalize, raw, attention)


def join_branches(
    fine, coarse, embedding_size: int, channels, normalize: bool, raw: bool, attention, dtype: str = "float32"
):
    """The head on its two maps; `channels` are those of the local and of the global attention."""
    check_size(embedding_size)
    if embedding_size % 2:
        raise ValueError(f"`embedding_size` must be even, half of it each. Received: embedding_size={embedding_size}")
    layers, halves = keras.layers, []
    for name, features, count in zip(("local", "global"), (fine, coarse), channels, strict=True):
        refined = SecondOrderAttention(count, **attention, name=f"{name}_attention", dtype=dtype)(features)
        mean = layers.GlobalAveragePooling2D(name=f"{name}_mean", dtype=dtype)(refined)
        highest = layers.GlobalMaxPooling2D(name=f"{name}_max", dtype=dtype)(refined)
        pooled = layers.Add(name=f"{name}_pooling", dtype=dtype)([mean, highest])
        halves.append(layers.Dense(embedding_size // 2, name=f"{name}_projection", dtype=dtype)(pooled))
    joined = layers.Concatenate(name="projection", dtype=dtype)(halves)
    heads = layers.Reshape((2, embedding_size // 2), name="halves", dtype=dtype)(joined)
    heads = layers.UnitNormalization(axis=-1, name="heads", dtype=dtype)(heads)
    whole = finished(joined, normalize, raw, dtype)
    return {**(whole if raw else {"embeddings": whole}), "heads": heads}


def with_fine_map(trunk: keras.Model, local_layer: str | None = None) -> keras.Model:
    """The same trunk with the same weights, whose outputs are a finer map and its last one.

    Args:
        trunk: from images to a feature map.
        local_layer: the layer of the finer map; None for the last one with twice the resolution of the trunk's output.

    Raises:
        UsageError: E_ENCODER_LAYER if there is no such layer.
    """
    last = trunk.layers[-1]
    if isinstance(last, keras.Model):  # a pretrained network after the rescaling of pixels
        maps = with_fine_map(last, local_layer)(trunk.layers[-2].output)
        return keras.Model(trunk.input, maps, name=trunk.name)
    maps = {layer.name: layer.output for layer in trunk.layers if _is_map(layer)}
    if local_layer is None:
        side = trunk.output.shape[1]  # images are square
        fitting = [name for name, features in maps.items() if features.shape[1] in (2 * side - 1, 2 * side)]
        local_layer = fitting[-1] if fitting else None
    if local_layer not in maps:
        raise UsageError(
            "E_ENCODER_LAYER",
            f"Expected `local_layer` to name a layer of the trunk with a feature map, one of {list(maps)[-12:]} "
            f"or before. Received: {local_layer!r}",
        )
    return keras.Model(trunk.input, [maps[local_layer], trunk.output], name=trunk.name)


def _is_map(layer) -> bool:
    return len(getattr(layer.output, "shape", ())) == 4
