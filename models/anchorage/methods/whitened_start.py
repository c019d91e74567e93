"""A projection that starts as the whitened principal components of the trunk's features."""

import keras
import numpy as np

from anchorage.checks import check_at_least_one
from anchorage.errors import UsageError
from anchorage.inference import predict_rows
from anchorage.methods.method import Method

_STREAM = 0x5A  # tells these draws from those of the batches
_FLOOR = 0.01  # least variance of a direction, as a share of the mean of those kept


@keras.saving.register_keras_serializable(package="anchorage")
class WhitenedStart(Method):
    """Starts the projection of the head with whitened principal components of the training features.

    A random projection of a pretrained trunk's features loses some of what they know; their whitened principal
    components retrieve better than all of the features, before any training (Jegou & Chum, ECCV 2012). Labels are not
    looked at. It costs one forward pass over `images` training images, and nothing afterwards.

    With features `x`, their mean `m`, principal directions `w_i` and variances `v_i`, embedding entry i starts as
    `a w_i . (x - m) / sqrt(v_i + 0.01 mean(v))`; `a` gives the weights the size that Glorot's rule would. Directions
    that the images do not span are any others, at right angles.

    Args:
        images: most training images that are looked at, at least 2.
        seed: of what is drawn.

    Raises:
        ValueError: on a parameter out of range.
        UsageError: E_NO_PROJECTION with a head that has no single projection.
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
    """Kernel `(C, size)` and bias `(size,)` of a dense layer that whitens `(M, C)` features, as `WhitenedStart` says.

    Of more than C directions the further ones are combinations of these.
    """
    width = features.shape[1]
    mean = features.mean(axis=0)
    centred = features - mean
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    variances = np.square(lengths) / len(features)
    known = min(int(np.count_nonzero(variances > 1e-9 * variances.max(initial=0.0))), size)
    floor = _FLOOR * (variances[:known].mean() if known else 1.0)
    basis = random.normal(size=(size, width))
    basis[:known] = directions[:known]
    square = min(size, width)
    basis[:square] = np.linalg.qr(basis[:square].T)[0].T
    basis[square:] /= np.sqrt(width)
    kernel = basis.T / np.sqrt(np.pad(variances[:known], (0, size - known)) + floor)
    kernel *= np.sqrt(2 / (width + size)) / np.sqrt(np.mean(np.square(kernel)))
    return kernel, -mean @ kernel
