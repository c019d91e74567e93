"""Heads: they turn the feature map of a trunk into embeddings by pooling, projection and normalization."""

import keras
from keras import ops

from anchorage.errors import UsageError

_TINY = 1e-6  # floor under an activation before the power: keeps its logarithm and gradient finite


@keras.saving.register_keras_serializable(package="anchorage")
class GeneralizedMeanPooling(keras.layers.Layer):
    """Generalised-mean (GeM) pooling: Radenovic, Tolias & Chum, TPAMI 2019, equation 3.

    Formula, per channel over the `H * W` positions of the feature map, with one learned exponent p:

        pooled = (mean(max(x, 1e-6)^p))^(1/p)

    `p = 1` is average pooling of a non-negative map; a large `p` approaches max pooling.

    Args:
        exponent: initial value of `p`, at least 1.

    Call arguments:
        features: `(N, H, W, C)` float tensor.

    Returns:
        `(N, C)` float32 tensor of positive numbers.

    Raises:
        ValueError: if `exponent < 1`.

    Example:
        >>> pool = GeneralizedMeanPooling(exponent=2.0)
        >>> float(pool(keras.ops.array([[[[3.0], [1.0]], [[3.0], [1.0]]]]))[0, 0] ** 2)
        5.0
    """

    def __init__(self, exponent: float = 3.0, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # powers overflow in half precision
        if exponent < 1:
            raise ValueError(f"`exponent` must be at least 1. Received: exponent={exponent}")
        self.exponent = exponent

    def build(self, features_shape):
        start = keras.initializers.Constant(self.exponent)
        self.power = self.add_weight(shape=(), initializer=start, name="power")

    def call(self, features):
        raised = ops.power(ops.maximum(features, _TINY), self.power)
        return ops.power(ops.mean(raised, axis=(1, 2)), 1.0 / self.power)

    def compute_output_shape(self, features_shape):
        return (features_shape[0], features_shape[-1])

    def get_config(self):
        return {**super().get_config(), "exponent": self.exponent}


POOLINGS: dict[str, type[keras.layers.Layer]] = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
    "gem": GeneralizedMeanPooling,
    "token": keras.layers.Identity,  # the trunk has picked the class token by itself
}


def attach_head(
    features, embedding_size: int, pooling: str, normalize: bool, raw: bool = False, start_scale: float = 1.0
):
    """Pool a feature map, project it and, by request, normalize each row to unit length.

    Args:
        features: symbolic `(N, H, W, C)` tensor.
        embedding_size: length D of an embedding.
        pooling: a key of `POOLINGS`.
        normalize: whether to normalize rows to unit length.
        raw: whether to return the rows before normalization, too.
        start_scale: factor on the initial weights of the projection, positive. It sets the initial length of
            embeddings for losses in which the length means something, such as the certainty in `nivmf`.

    Returns:
        Symbolic `(N, D)` tensor, float32 under every precision policy; with `raw` a dict of two, `embeddings` and
        `raw`.

    Raises:
        UsageError: E_NAME_UNKNOWN if `pooling` is unknown.
        ValueError: if `embedding_size` or `start_scale` is not positive.
    """
    check_size(embedding_size)
    if not start_scale > 0:
        raise ValueError(f"`start_scale` must be positive. Received: start_scale={start_scale}")
    pooled = pool(features, pooling)
    # A `start_scale` of 1 is Glorot's rule, the default of Dense. The last layers stay in float32, as half precision
    # would change the order of near neighbors.
    start = keras.initializers.VarianceScaling(start_scale**2, "fan_avg", "uniform")
    projected = keras.layers.Dense(embedding_size, kernel_initializer=start, dtype="float32", name="projection")(pooled)
    return finished(projected, normalize, raw)


def attach_identity_head(features, pooling: str, normalize: bool, raw: bool = False):
    """Pool a feature map and, by request, normalize each row: the embeddings are the features of the trunk.

    Args:
        features: symbolic `(N, H, W, C)` tensor, or `(N, C)` with `pooling="token"`.
        pooling: a key of `POOLINGS`.
        normalize: whether to normalize rows to unit length.
        raw: whether to return the rows before normalization, too.

    Returns:
        Symbolic `(N, C)` float32 tensor; with `raw` a dict of two, `embeddings` and `raw`.
    """
    pooled = pool(features, pooling)
    if keras.backend.standardize_dtype(pooled.dtype) != "float32":
        pooled = keras.layers.Identity(dtype="float32", name="features")(pooled)
    return finished(pooled, normalize, raw)


def check_size(embedding_size: int) -> None:
    """Raise a `ValueError` unless `embedding_size` is positive."""
    if embedding_size < 1:
        raise ValueError(f"`embedding_size` must be positive. Received: embedding_size={embedding_size}")


def pool(features, pooling: str):
    """Pool a symbolic feature map to `(N, C)`; with `pooling="token"` it has that shape already.

    Raises:
        UsageError: E_NAME_UNKNOWN if `pooling` is unknown; E_POOLING if the trunk has no class token.
    """
    if pooling not in POOLINGS:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown pooling {pooling!r}. Known: {sorted(POOLINGS)}")
    if pooling == "token" and len(features.shape) != 2:
        raise UsageError(
            "E_POOLING",
            "`pooling` = 'token' needs an encoder with a class token, such as 'hub:dinov2_small'. Received: one that "
            "gives feature maps; use 'avg', 'max' or 'gem'.",
        )
    return POOLINGS[pooling](name="pooling")(features)


def finished(projected, normalize: bool, raw: bool, dtype: str = "float32"):
    """The outputs of an encoder: embeddings, normalized by request, and by request also as they were before."""
    embeddings = projected
    if normalize:
        embeddings = keras.layers.UnitNormalization(axis=-1, dtype=dtype, name="unit_length")(embeddings)
    return {"embeddings": embeddings, "raw": projected} if raw else embeddings
