"""Embedding of validated records by the model of a release, in this process or on a model server."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from anchorage.errors import DataError, UsageError
from anchorage.release import Release
from anchorage.release.manifest import TEXT

_BATCH = 64  # records per call of the model
_FOLDED_BYTES = 256 * 2**20  # of weights; a second copy of more is not worth the time that it saves


class Embedder(Protocol):
    """Embeds records that have been checked: encoded images, or vectors.

    Attributes:
        dimension: dimension of the embeddings.
        fingerprint: fingerprint of the model, as in the manifest of its release.
        input_dimension: numbers per record, if records are vectors; 0 if they are encoded images.
        takes_pixels: whether images may also be decoded and resized already.
    """

    dimension: int
    fingerprint: str
    input_dimension: int
    takes_pixels: bool

    @property
    def takes_vectors(self) -> bool:
        """Whether records are `(V,)` vectors instead of encoded images."""
        ...

    def embed(self, records: Sequence[bytes | np.ndarray] | np.ndarray) -> np.ndarray:
        """Embed a batch.

        Args:
            records: `N` encoded images, or `N` images of `(S, S, 3)` uint8 pixels if it `takes_pixels`, or `N` float
                vectors of `input_dimension` numbers.

        Returns:
            `(N, dimension)` float32.
        """
        ...


class LocalEmbedder:
    """Runs the SavedModel of a release in this process.

    Args:
        release: a verified release, from `open_release`.
    """

    def __init__(self, release: Release):
        import tensorflow as tf

        self._model = tf.saved_model.load(str(release.path))  # a signature holds no reference to the model
        self._embed = self._model.signatures["serving_default"]
        self.dimension: int = self._embed.structured_outputs["embeddings"].shape[-1]
        self.fingerprint = release.model_fingerprint
        inputs: dict[str, Any] = self._embed.structured_input_signature[1]
        self.input_dimension: int = inputs["vectors"].shape[-1] if "vectors" in inputs else 0
        self.takes_pixels = "pixels" in self._model.signatures
        if self.takes_pixels:
            self._embed_pixels = _fold(self._model.signatures["pixels"])

    @property
    def takes_vectors(self) -> bool:
        return self.input_dimension > 0

    def embed(self, records: Sequence[bytes | np.ndarray] | np.ndarray) -> np.ndarray:
        """Embed records, at most 64 at a time; see `Embedder.embed`."""
        import tensorflow as tf

        embeddings = [np.empty((0, self.dimension), np.float32)]
        for start in range(0, len(records), _BATCH):
            batch: Any = records[start : start + _BATCH]
            if self.takes_vectors:
                outputs = self._embed(vectors=tf.constant(np.stack(batch), tf.float32))
            elif isinstance(batch[0], np.ndarray):
                outputs = self._embed_pixels(tf.constant(np.stack(batch), tf.uint8))
            else:
                outputs = self._embed(images=tf.constant(batch, tf.string))
            embeddings.append(accepted({name: value.numpy() for name, value in outputs.items()}))
        return np.concatenate(embeddings)


def _fold(pixels: Any) -> Callable[[Any], dict[str, Any]]:
    """Return the signature `pixels` as a function whose weights are constants.

    TensorFlow can then fold what follows from weights alone, such as batch normalization into convolutions, which saves
    15 to 25 % of the time of a small convolutional network.
    """
    if sum(variable.dtype.size * variable.shape.num_elements() for variable in pixels.variables) > _FOLDED_BYTES:
        return lambda images: pixels(images=images)
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    folded = convert_variables_to_constants_v2(pixels)
    # Called by itself, `folded` formats its input for an error message at each call: a sixth of the time of one image.
    traced = tf.function(
        lambda images: folded(images)[0], input_signature=[pixels.structured_input_signature[1]["images"]]
    )
    call = traced.get_concrete_function()
    return lambda images: {"embeddings": call(images)}


def accepted(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the embeddings of records that have been checked, from the outputs of a model.

    Raises:
        DataError: `E_RECORD_REFUSED` if the model marks a record as not valid, or its embedding is not finite, as it
            is for a vector of numbers near the largest float32.
    """
    embeddings = outputs["embeddings"]
    usable = np.isfinite(embeddings).all(axis=-1)
    if "valid" in outputs:  # models of earlier releases raise an error instead
        usable &= outputs["valid"]
    if not usable.all():
        raise DataError(
            "E_RECORD_REFUSED",
            f"Expected a model that embeds all of {len(usable)} records, which were found to be intact. Received: no "
            f"finite embedding of {np.count_nonzero(~usable)} of them.",
        )
    return embeddings


class TextEmbedder:
    """Embeds descriptions with the text encoder of a release of an image-text preset.

    Args:
        release: a verified release.

    Raises:
        UsageError: E_NO_TEXT if the release has no encoder for texts; E_EXTRA_MISSING if KerasHub, which has the
            tokenizer, is not installed.
    """

    def __init__(self, release: Release):
        folder = release.path / TEXT
        if not (folder / "saved_model.pb").is_file():
            encoder = release.facts.get("experiment", {}).get("encoder", {})
            raise UsageError(
                "E_NO_TEXT",
                "Expected a release with an encoder for texts: one of an image-text preset such as "
                "'hub:siglip2_base_patch16_224' with its own pooling ('token') and no training (`epochs = 0`), as "
                "training moves images away from their descriptions. Received: release "
                f"{release.version} with the encoder {encoder.get('name')!r}.",
            )
        import tensorflow as tf

        from anchorage.encoders.text import load_tokenizer

        self._tokenize, self._model = load_tokenizer(folder), tf.saved_model.load(str(folder))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: `(N, dimension)` float32."""
        import tensorflow as tf

        tokens = tf.cast(self._tokenize(texts), tf.int32)
        return self._model.signatures["serving_default"](token_ids=tokens)["embeddings"].numpy()
