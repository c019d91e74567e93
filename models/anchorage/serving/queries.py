"""Query images in the forms that a program has them in, as the encoded bytes that a release takes."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from anchorage.errors import UsageError

Query = bytes | str | os.PathLike | Image.Image | np.ndarray


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
