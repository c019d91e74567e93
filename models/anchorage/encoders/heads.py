"""What turns a trunk's feature map into embeddings: pooling, projection, unit length."""

import keras
from keras import ops

from anchorage.errors import UsageError

_TINY = 1e-6  # floor under an activation before the power: keeps its logarithm and gradient finite


@keras.saving.register_keras_serializable(package="anchorage")
class GeneralizedMeanPooling(keras.layers.Layer):
    """Generalised-mean (GeM) pooling: Radenovic, Tolias & Chum, TPAMI 2019, equation 3.

    Formula, per channel over the `H * W` positions of the feature map, with one learned exponent:

        pooled = (mean(max(x, 1e-6)^p))^(1/p)

    `p = 1` is average pooling of a non-negative map; a large `p` approaches max pooling.

    Args:
        exponent: start value of `p`, at least 1.

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
}


def attach_head(
    features, embedding_size: int, pooling: str, normalize: bool, raw: bool = False, start_scale: float = 1.0
):
    """Pool a feature map, project it and, if asked, bring each row to unit length.

    Args:
        features: symbolic `(N, H, W, C)` tensor.
        embedding_size: length D of an embedding.
        pooling: a key of `POOLINGS`.
        normalize: whether rows get unit length.
        raw: whether to give the rows before that too.
        start_scale: factor on the initial weights of the projection, positive. Where the length of an embedding has
            a meaning, as the certainty in `nivmf`, it says where lengths start.

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
    # Dense starts by Glorot's rule, a scale of 1. The last steps stay in float32: half precision would blur the order
    # of near neighbours.
    start = keras.initializers.VarianceScaling(start_scale**2, "fan_avg", "uniform")
    projected = keras.layers.Dense(embedding_size, kernel_initializer=start, dtype="float32", name="projection")(pooled)
    return finished(projected, normalize, raw)


def check_size(embedding_size: int) -> None:
    """Raise a `ValueError` unless an embedding has at least one number."""
    if embedding_size < 1:
        raise ValueError(f"`embedding_size` must be positive. Received: embedding_size={embedding_size}")


def pool(features, pooling: str):
    """Symbolic `(N, C)` tensor out of a feature map.

    Raises:
        UsageError: E_NAME_UNKNOWN if `pooling` is unknown.
    """
    if pooling not in POOLINGS:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown pooling {pooling!r}. Known: {sorted(POOLINGS)}")
    return POOLINGS[pooling](name="pooling")(features)


def finished(projected, normalize: bool, raw: bool, dtype: str = "float32"):
    """What an encoder gives: projected rows, at unit length if asked, and as they were if asked."""
    embeddings = projected
    if normalize:
        embeddings = keras.layers.UnitNormalization(axis=-1, dtype=dtype, name="unit_length")(embeddings)
    return {"embeddings": embeddings, "raw": projected} if raw else embeddings
