"""An embedding for each loss of an ensemble, concatenated or compressed: Zabihzadeh, Alitbi & Mousavirad, MTAP 2023."""

import keras
from keras import ops

from anchorage.encoders.heads import check_size, pool
from anchorage.geometry import weighted_concatenation


@keras.saving.register_keras_serializable(package="anchorage")
class WeightedConcatenation(keras.layers.Layer):
    """Concatenates heads, each scaled by the square root of its share.

    Squared distances of the result are those of the heads, weighted by the shares. The shares start equal; the method
    `learned_concatenation` sets them to the weights that `EnsembleLoss` has learned.

    Call arguments:
        heads: `(N, m, d)` tensor.

    Returns:
        `(N, m * d)` tensor.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def build(self, heads_shape):
        equal = keras.initializers.Constant(1.0 / heads_shape[1])
        self.shares = self.add_weight(name="shares", shape=(heads_shape[1],), initializer=equal, trainable=False)

    def call(self, heads):
        return weighted_concatenation(heads, ops.convert_to_tensor(self.shares))

    def compute_output_shape(self, heads_shape):
        return (heads_shape[0], heads_shape[1] * heads_shape[2])


@keras.saving.register_keras_serializable(package="anchorage")
class Compressor(keras.layers.Layer):
    """A two-layer network that shortens embeddings; no gradient flows to its input.

    Formula:

        z = tanh(x W1 + b1) W2 + b2

    Args:
        size: length of the result.
        hidden: width of the hidden layer; None for the width of the input.

    Call arguments:
        rows: `(N, D)` tensor.

    Returns:
        `(N, size)` tensor.
    """

    def __init__(self, size: int, hidden: int | None = None, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.size = size
        self.hidden = hidden

    def build(self, rows_shape):
        hidden = self.hidden or rows_shape[-1]
        self.inward = keras.layers.Dense(hidden, activation="tanh", name="inward", dtype=self.dtype_policy)
        self.outward = keras.layers.Dense(self.size, name="outward", dtype=self.dtype_policy)
        self.inward.build(rows_shape)
        self.outward.build((None, hidden))

    def call(self, rows):
        return self.outward(self.inward(ops.stop_gradient(rows)))

    def compute_output_shape(self, rows_shape):
        return (rows_shape[0], self.size)

    def get_config(self):
        return {**super().get_config(), "size": self.size, "hidden": self.hidden}


def attach_ensemble_head(
    features,
    embedding_size: int,
    pooling: str,
    members: int,
    head_size: int = 64,
    compress: bool = True,
    hidden: int | None = None,
):
    """Pool a feature map and project it once for each loss of an ensemble.

    For the loss `ensemble` with as many members and the method `learned_concatenation`.

    Args:
        features: symbolic `(N, H, W, C)` tensor.
        embedding_size: length D of the embeddings; without `compress` it must be `members * head_size`.
        pooling: a key of `POOLINGS`.
        members: losses of the ensemble, at least 1.
        head_size: length d of each head.
        compress: whether a network that learns to preserve distances shortens the concatenated heads to
            `embedding_size`. Its weights have `compressor` in their path, for a learning rate of their own.
        hidden: width of that network's hidden layer; None for `members * head_size`.

    Returns:
        Dict of symbolic float32 tensors: `embeddings` `(N, D)`, `heads` `(N, members, head_size)`, and with
        `compress` again as `compressed`; all rows of unit length. The publication does not normalize the compressed
        rows; search here uses the cosine, so that they are normalized as they will be searched.

    Raises:
        UsageError: E_NAME_UNKNOWN if `pooling` is unknown.
        ValueError: if a size is not positive, or sizes are inconsistent.
    """
    check_size(embedding_size)
    if members < 1 or head_size < 1:
        raise ValueError(f"Expected at least one member and one number each. Received: {members=}, {head_size=}")
    if not compress and embedding_size != members * head_size:
        raise ValueError(
            f"Without `compress` an embedding is the heads side by side: embedding_size={members * head_size}. "
            f"Received: embedding_size={embedding_size}"
        )
    pooled = pool(features, pooling)
    projections = [
        keras.layers.Dense(head_size, dtype="float32", name=f"projection_{number}")(pooled) for number in range(members)
    ]
    stacked = keras.layers.Reshape((members, head_size), dtype="float32", name="stacked")(
        keras.layers.Concatenate(dtype="float32", name="side_by_side")(projections) if members > 1 else projections[0]
    )
    heads = keras.layers.UnitNormalization(axis=-1, dtype="float32", name="heads")(stacked)
    joined = WeightedConcatenation(name="concatenation")(heads)
    if compress:
        joined = Compressor(embedding_size, hidden, name="compressor")(joined)
    embeddings = keras.layers.UnitNormalization(axis=-1, dtype="float32", name="unit_length")(joined)
    outputs = {"embeddings": embeddings, "heads": heads}
    return {**outputs, "compressed": embeddings} if compress else outputs
