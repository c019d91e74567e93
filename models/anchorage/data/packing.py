"""Conversion of encoded images and vectors to records of a store."""

import functools
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from anchorage.data.examples import Example
from anchorage.data.images import check_image, load_image
from anchorage.data.store import Record, RecordSpec
from anchorage.errors import DataError

_BATCH = 64  # images decoded at once


def decode_records(examples: Iterable[Example], spec: RecordSpec) -> Iterator[Record]:
    """Decode and resize images to records, in order, one batch at a time; vectors are unchanged.

    Args:
        examples: validated images, or vectors.
        spec: shape and type of the records.

    Raises:
        DataError: with a code of `check_image` if an image cannot be decoded.
    """
    if spec.dimension:
        for example in examples:
            yield Record(example.id, example.label, example.role, np.asarray(example.content, np.float32))
        return
    import tensorflow as tf

    load, examples = _loader(spec.image_size, spec.fit), iter(examples)
    while batch := list(itertools.islice(examples, _BATCH)):
        try:
            images = load(tf.constant([example.content for example in batch])).numpy()
        except tf.errors.InvalidArgumentError:
            raise _undecodable(batch) from None
        for example, image in zip(batch, images, strict=True):
            yield Record(example.id, example.label, example.role, image)


@functools.cache
def _loader(image_size: int, fit: str):
    """Return a function that decodes a batch of images in parallel."""
    import tensorflow as tf

    def load(images):
        return tf.map_fn(lambda data: load_image(data, image_size, fit), images, fn_output_signature=tf.uint8)

    return tf.function(load, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)


def _undecodable(batch: list[Example]) -> DataError:
    """Return the error of the first image in the batch that cannot be decoded."""
    for example in batch:
        fault = check_image(bytes(example.content))
        if fault is not None:
            return DataError(
                fault.code, f"Expected validated images in the examples. Received: {example.id!r}: {fault.message}"
            )
    return DataError("E_IMAGE_DAMAGED", f"One image of {batch[0].id!r} to {batch[-1].id!r} cannot be decoded")
