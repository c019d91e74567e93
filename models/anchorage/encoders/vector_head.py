"""Encoders of given vectors: a head alone, which starts as near to the identity as its shape allows."""

from collections.abc import Sequence

import keras

from anchorage.encoders.heads import check_size, finished

KINDS = ("linear", "residual", "mlp")


def create_vector_encoder(
    dimension: int,
    *,
    embedding_size: int | None = None,
    kind: str = "linear",
    layers: Sequence[int] = (512,),
    dropout: float = 0.0,
    normalize: bool = True,
    raw: bool = False,
) -> keras.Model:
    """Make an encoder from vectors `(N, V)` to embeddings `(N, D)`.

    A `linear` or `residual` head with `D = V` starts as the identity, so that before its first step it gives the
    vectors themselves, at unit length. With `D < V` a `linear` head starts as a random orthogonal projection, which
    keeps distances as well as any projection that knows nothing of the data; an `mlp` starts as Keras starts it.

    Args:
        dimension: V, the numbers of a vector.
        embedding_size: D; by default V.
        kind: `"linear"`, one matrix; `"residual"`, the vector plus what a network of `layers` adds to it; `"mlp"`, a
            network of `layers` and one matrix.
        layers: sizes of the hidden layers, with GELU, of `"residual"` and `"mlp"`.
        dropout: share in [0, 1) of the hidden units that a training step leaves out.
        normalize: whether embeddings get unit length.
        raw: whether embeddings come in a dict, `embeddings` as ever and `raw` before unit length.

    Raises:
        ValueError: if a value is out of range, or a residual head is to change the dimension.

    Example:
        >>> create_vector_encoder(16, embedding_size=8).output_shape
        (None, 8)
    """
    size = dimension if embedding_size is None else embedding_size
    check_size(size)
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: kind={kind!r}")
    if kind == "residual" and size != dimension:
        raise ValueError(
            f"a residual head keeps the dimension of the vectors, {dimension}. Received: embedding_size={size}; "
            "leave it out, or take kind='mlp'"
        )
    if kind != "linear" and (not layers or min(layers) < 1):
        raise ValueError(f"`layers` must hold positive sizes. Received: layers={list(layers)}")
    vectors = keras.Input((dimension,), name="vectors")
    hidden = vectors
    for number, units in enumerate(layers if kind != "linear" else ()):
        hidden = keras.layers.Dense(units, activation="gelu", name=f"hidden_{number}")(hidden)
        if dropout:
            hidden = keras.layers.Dropout(dropout, name=f"dropout_{number}")(hidden)
    start = {"linear": _start_of_linear(dimension, size), "residual": "zeros", "mlp": "glorot_uniform"}[kind]
    projected = keras.layers.Dense(size, kernel_initializer=start, dtype="float32", name="projection")(hidden)
    if kind == "residual":
        projected = keras.layers.Add(dtype="float32", name="sum")([vectors, projected])
    return keras.Model(vectors, finished(projected, normalize, raw), name="encoder")


def _start_of_linear(dimension: int, size: int) -> keras.initializers.Initializer:
    return keras.initializers.Identity() if size == dimension else keras.initializers.Orthogonal()
