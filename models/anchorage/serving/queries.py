"""Queries: images in the forms that a program has them in, as the encoded bytes that a release takes; their check."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from anchorage.data.images import MAX_BYTES, MAX_PIXELS, ImageFault, decode_checked, resize_image
from anchorage.data.store import content_digest
from anchorage.errors import UsageError

Query = bytes | str | os.PathLike | Image.Image | np.ndarray


class QueryCheck:
    """Checks a query before it is embedded, and finds the gallery items with the same pixels or numbers.

    Args:
        gallery: columns of the release's gallery, from `read_ids`.
        facts: content of the release's `index.json`.
        input_dimension: numbers per query, for a release of vectors; 0 for images.
        max_bytes: largest accepted image file.
        max_pixels: largest accepted width times height.
    """

    def __init__(
        self,
        gallery: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
        input_dimension: int,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
    ):
        self._facts = facts
        self._input_dimension = input_dimension
        self._limits = max_bytes, max_pixels
        self._rows_of: dict[str, list[int]] = {}  # by digest; empty for releases of earlier formats
        for row, digest in enumerate(gallery.get("pixels", ())):
            self._rows_of.setdefault(digest, []).append(row)

    def __call__(self, record: bytes | np.ndarray) -> tuple[list[int], ImageFault | None]:
        """Return the gallery rows with the same pixels or numbers, or why the query is invalid."""
        if self._input_dimension:
            return self._check_vector(np.asarray(record))
        pixels, fault = decode_checked(bytes(record), *self._limits)
        if pixels is None or not self._rows_of:
            return [], fault
        resized = resize_image(pixels, self._facts["image_size"], self._facts["fit"])
        return self._rows_of.get(content_digest(resized.numpy()), []), None

    def _check_vector(self, vector: np.ndarray) -> tuple[list[int], ImageFault | None]:
        if vector.shape != (self._input_dimension,):
            expected = f"Expected {self._input_dimension} numbers. Received: shape {vector.shape}"
            return [], ImageFault("E_QUERY_SHAPE", expected)
        if not np.isfinite(vector).all() or not vector.any():
            return [], ImageFault("E_VECTOR_UNUSABLE", "Expected finite numbers that are not all zero")
        return self._rows_of.get(content_digest(vector.astype(np.float32)), []), None


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
