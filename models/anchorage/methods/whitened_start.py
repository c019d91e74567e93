"""Initialization of the projection by whitened principal components of the trunk's features."""

import keras
import numpy as np

from anchorage.checks import check_at_least_one
from anchorage.errors import UsageError
from anchorage.inference import predict_rows
from anchorage.methods.method import Method

_STREAM = 0x5A  # separates these random numbers from those of the batches
_REGULARIZATION = 0.01  # added to the variances, relative to the mean of those kept


@keras.saving.register_keras_serializable(package="anchorage")
class WhitenedStart(Method):
    """Initializes the projection of the head with whitened principal components of the training features.

    A random projection of the features of a pretrained trunk loses information; their whitened principal components
    retrieve better than the full features, before any training (Jegou & Chum, ECCV 2012). Formula for coordinate i of
    the embedding, with features `x`, their mean `m`, principal directions `w_i` and variances `v_i`:

        a w_i . (x - m) / sqrt(v_i + 0.01 mean(v))

    where `a` gives the weights the scale of Glorot's initializer. Directions beyond the span of the features are random
    and orthogonal to it. Labels are not used. Takes one forward pass over `images` training images before training.

    Args:
        images: maximum number of training images, at least 2.
        seed: of the random images and directions.

    Raises:
        ValueError: if an argument is out of range.
        UsageError: E_NO_PROJECTION if the head has no single projection.
    """

    def __init__(self, images: int = 4096, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_at_least_one(images=images - 1)
        self.images = images
        self.seed = seed

    def start(self, context):
        encoder, store = context.learner.encoder, context.store
        projection = next((layer for layer in encoder.layers if layer.name == "projection"), None)
        if not isinstance(projection, keras.layers.Dense):
            raise UsageError("E_NO_PROJECTION", "'whitened_start' needs an encoder with the head 'plain'.")
        random = np.random.default_rng((_STREAM, self.seed))
        rows = np.sort(random.permutation(len(store))[: self.images])
        features = predict_rows(keras.Model(encoder.inputs, projection.input), store, rows)
        kernel, bias = whitening(np.asarray(features, np.float64), projection.units, random)
        projection.kernel.assign(kernel)
        projection.bias.assign(bias)

    def get_config(self):
        return {**super().get_config(), "images": self.images, "seed": self.seed}


def whitening(features: np.ndarray, size: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a dense layer that whitens features by the formula of `WhitenedStart`.

    Args:
        features: `(M, C)` float array.
        size: number of outputs; those beyond C get random directions.
        random: random generator.

    Returns:
        `(C, size)` kernel and `(size,)` bias.
    """
    width = features.shape[1]
    mean = features.mean(axis=0)
    centered = features - mean
    _, singular_values, directions = np.linalg.svd(centered, full_matrices=False)
    variances = np.square(singular_values) / len(features)
    rank = min(int(np.count_nonzero(variances > 1e-9 * variances.max(initial=0.0))), size)
    regularization = _REGULARIZATION * (variances[:rank].mean() if rank else 1.0)
    basis = random.normal(size=(size, width))
    basis[:rank] = directions[:rank]
    square = min(size, width)
    basis[:square] = np.linalg.qr(basis[:square].T)[0].T
    basis[square:] /= np.sqrt(width)
    kernel = basis.T / np.sqrt(np.pad(variances[:rank], (0, size - rank)) + regularization)
    kernel *= np.sqrt(2 / (width + size)) / np.sqrt(np.mean(np.square(kernel)))
    return kernel, -mean @ kernel
