"""Unit vectors in NumPy, for embeddings outside of a training step; inside one it is `anchorage.geometry`."""

import numpy as np

_MIN_NORM = 1e-12  # avoids a division by zero


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Normalize vectors `(..., D)` to unit length; a vector of zeros is unchanged."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _MIN_NORM)
