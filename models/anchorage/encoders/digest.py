"""Digests of the architecture and the weights of a model, independent of other models in the process."""

import hashlib
import json
import re

import keras

_COUNTED = re.compile(r'_\d+"')


def digest_architecture(model: keras.Model) -> str:
    """SHA-256, in hex, of the configuration of a model.

    Numbers at the end of layer names are removed: they depend on the layers that the process has created before.
    """
    config = json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True, default=str)
    return hashlib.sha256(_COUNTED.sub('"', config).encode()).hexdigest()


def digest_weights(model: keras.Model) -> list[list]:
    """Type, shape and SHA-256, in hex, of each weight of a model, in its order."""
    return [[w.dtype, list(w.shape), hashlib.sha256(_bytes(w)).hexdigest()] for w in model.weights]


def _bytes(weight: keras.Variable) -> bytes:
    return keras.ops.convert_to_numpy(weight).tobytes()
