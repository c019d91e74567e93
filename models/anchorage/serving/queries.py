"""Queries: conversion of images of several forms to the encoded bytes that a release takes, and their validation."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from anchorage.data.images import ImageFault, decode_checked, resizer
from anchorage.data.limits import MAX_BYTES, MAX_PIXELS
from anchorage.data.store import content_digest
from anchorage.errors import UsageError
from anchorage.serving.embedders import Embedder

_TINY = np.finfo(np.float32).tiny  # the model takes smaller numbers as zeros

Query = bytes | str | os.PathLike | Image.Image | np.ndarray


class Checked(NamedTuple):
    """A query that was checked.

    Args:
        record: what to embed: the query, or its decoded and resized pixels.
        rows: rows of the gallery with the same pixels or numbers.
        fault: why the query cannot be used, or None.
        pixels: digest of the resized pixels or of the numbers; "" if it is not known.
    """

    record: bytes | np.ndarray
    rows: list[int]
    fault: ImageFault | None
    pixels: str = ""


class QueryCheck:
    """Checks a query before it is embedded, and finds the gallery items with the same pixels or numbers.

    Args:
        gallery: columns of the release's gallery, from `read_ids`.
        facts: content of the release's `index.json`.
        embedder: embeds what is checked; if it takes pixels, an image is decoded only here.
        max_bytes: largest accepted image file.
        max_pixels: largest accepted width times height.
    """

    def __init__(
        self,
        gallery: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
        embedder: Embedder,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
    ):
        self._facts = facts
        self._input_dimension, self._takes_pixels = embedder.input_dimension, embedder.takes_pixels
        self._limits = max_bytes, max_pixels
        self._rows_of: dict[str, list[int]] = {}  # by digest; empty for releases of earlier formats
        for row, digest in enumerate(gallery.get("pixels", ())):
            self._rows_of.setdefault(digest, []).append(row)

    def __call__(self, query: bytes | np.ndarray) -> Checked:
        """Check an encoded image, or a vector."""
        if self._input_dimension:
            return self._check_vector(np.asarray(query))
        pixels, fault = decode_checked(bytes(query), *self._limits)
        if pixels is None or "image_size" not in self._facts:  # releases of earlier formats
            return Checked(query, [], fault)
        resized = resizer(self._facts["image_size"], self._facts["fit"])(pixels).numpy()
        digest = content_digest(resized)
        return Checked(resized if self._takes_pixels else query, self._rows_of.get(digest, []), None, digest)

    def _check_vector(self, vector: np.ndarray) -> Checked:
        if vector.shape != (self._input_dimension,):
            expected = f"Expected {self._input_dimension} numbers. Received: shape {vector.shape}"
            return Checked(vector, [], ImageFault("E_QUERY_SHAPE", expected))
        if not np.isfinite(vector).all() or np.abs(vector).max() < _TINY:
            return Checked(vector, [], ImageFault("E_VECTOR_UNUSABLE", "Expected finite numbers that are not all zero"))
        digest = content_digest(vector.astype(np.float32))
        return Checked(vector, self._rows_of.get(digest, []), None, digest)


def encode_query(image: Query) -> bytes:
    """Return the bytes of an image file; pixels are encoded as PNG, which loses nothing.

    Args:
        image: encoded bytes, the path of an image file, a Pillow image, or
            `(H, W, 3)` uint8 pixels in RGB.

    Raises:
        UsageError: `E_IMAGE_MISSING` if there is no file at the path,
            `E_QUERY_KIND` for anything else.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        if not Path(image).is_file():
            raise UsageError("E_IMAGE_MISSING", f"Expected an image file at {image}. Found none.")
        return Path(image).read_bytes()
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        return _png(upright.convert("RGB") if upright.mode == "CMYK" else upright)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return _png(Image.fromarray(image))
    received = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UsageError(
        "E_QUERY_KIND",
        f"Expected a path, encoded bytes, a Pillow image or (H, W, 3) uint8 pixels. Received: {received}.",
    )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
