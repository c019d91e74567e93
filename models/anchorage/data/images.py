"""Image decoding and resizing, the same in training, batch embedding and serving.

Decoding uses only TensorFlow core operations, so an exported SavedModel contains the same function
and runs in stock TensorFlow Serving. The rules:

    JPEG   rotated by its EXIF orientation; CMYK converted by TensorFlow
    PNG    16 bits reduced to the high byte; grayscale and palette expanded; transparency over white
    GIF    first frame; transparent or uncovered parts are black, as TensorFlow decodes them
    BMP    8 (grayscale or palette), 24 or 32 bits; a fourth channel is ignored
    WebP   first frame; transparency over white

Only JPEG orientation is used. A truncated JPEG is an error, not a partly gray image.
"""

import hashlib
import io
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from anchorage.data.limits import MAX_BYTES, MAX_PIXELS

FITS = ("crop", "pad", "squash")

_MAGICS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8", "BMP": b"BM", "WebP": b"RIFF"}
_READERS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # Pillow's names
HEAD_BYTES = 32  # bytes that determine the format and its variant
_EXIF = b"Exif\x00\x00"
_SCAN = b"\xff\xda"  # start of a scan in a JPEG
_ORIENTATION = 0x0112
_MAX_PARTS = {"JPEG": 1_000, "GIF": 20_000}  # a file of millions takes minutes to read
_MAX_SCANS = 32  # of a progressive JPEG as large as the limit; usual are 10


class ImageFault(NamedTuple):
    """Why an image is rejected: a stable code and a message."""

    code: str
    message: str


def load_image(data: tf.Tensor, size: int, fit: str) -> tf.Tensor:
    """Decode and resize image bytes to `(size, size, 3)` uint8; see `decode_image` and `resize_image`."""
    return resize_image(decode_image(data), size, fit)


def resize_image(image: tf.Tensor, size: int, fit: str) -> tf.Tensor:
    """Resize an image to a square, with bilinear interpolation and antialiasing.

    Args:
        image: `(H, W, 3)` uint8.
        size: side of the result in pixels.
        fit: "crop" takes the central square of the image, "pad" adds a white border,
            "squash" changes the aspect ratio.

    Returns:
        `(size, size, 3)` uint8.

    Raises:
        ValueError: if `fit` is none of these, or `size` is below 1.
    """
    if fit not in FITS:
        raise ValueError(f"`fit` must be one of {', '.join(FITS)}. Received: fit={fit!r}")
    if size < 1:
        raise ValueError(f"`size` must be at least 1. Received: size={size}")
    shape = tf.shape(image)[:2]
    if fit == "crop":
        side = tf.reduce_min(shape)
        top, left = tf.unstack((shape - side) // 2)
        image = image[top : top + side, left : left + side]
    inner = tf.constant([size, size])
    if fit == "pad":
        scale = size / tf.reduce_max(shape)
        inner = tf.maximum(1, tf.cast(tf.round(tf.cast(shape, tf.float64) * scale), tf.int32))
    image = tf.image.resize(image, inner, tf.image.ResizeMethod.BILINEAR, antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    if fit == "pad":
        before = (size - inner) // 2
        border = tf.stack([before, size - inner - before], axis=1)
        image = tf.pad(image, tf.concat([border, [[0, 0]]], 0), constant_values=255)
    return tf.ensure_shape(image, (size, size, 3))


@cache
def resizer(size: int, fit: str) -> Callable[[np.ndarray], tf.Tensor]:
    """Return `resize_image` for a size and a fit as a graph, which takes half the time of its single operations."""
    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    return tf.function(lambda image: resize_image(image, size, fit), input_signature=[spec], autograph=False)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode_image(data: tf.Tensor) -> tf.Tensor:
    """Decode the bytes of a JPEG, PNG, GIF, BMP or WebP file by the rules of this module.

    Args:
        data: scalar string tensor, or bytes.

    Returns:
        `(H, W, 3)` uint8, RGB.

    Raises:
        tf.errors.InvalidArgumentError: if the bytes are not an image, or the image is damaged.
    """
    head = read_bytes(data, 0, HEAD_BYTES)
    flags = format_flags(head)
    branches = [partial(decode, data, head) for decode in _decoders().values()]
    branches.append(partial(_decode_gif, data, head))  # unknown format: raises with the reason
    branch = tf.where(tf.reduce_any(flags > 0), tf.argmax(flags, output_type=tf.int32), len(branches) - 1)
    return tf.ensure_shape(tf.switch_case(branch, branches), (None, None, 3))


def format_flags(head: tf.Tensor) -> tf.Tensor:
    """Return, for each known format in the order JPEG, PNG, GIF, BMP, WebP, 1 if the first bytes are of it."""
    matches = [tf.reduce_all(head[: len(magic)] == list(magic)) for magic in _MAGICS.values()]
    matches[-1] &= tf.reduce_all(head[8:12] == list(b"WEBP"))  # RIFF files can also be audio or video
    return tf.cast(tf.stack(matches), tf.int32)


@cache
def _decoder(kind: str) -> Callable[[bytes], tf.Tensor]:
    """Return `decode_image` for a known format, with a graph of a sixth of the size."""
    decode = _decoders()[kind]

    def decode_kind(data: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(decode(data, read_bytes(data, 0, HEAD_BYTES)), (None, None, 3))

    return tf.function(decode_kind, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def _decoders() -> dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]]:
    """Return the functions from bytes and header to pixels by format, in the order of `_MAGICS`."""
    return {"JPEG": _decode_jpeg, "PNG": _decode_png, "GIF": _decode_gif, "BMP": _decode_bmp, "WebP": _decode_webp}


def check_image(data: bytes, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> ImageFault | None:
    """Return why an image cannot be used, or None if it is valid.

    The size is checked in the header before memory is allocated; then the image is decoded.

    Args:
        data: bytes of the file.
        max_bytes: largest accepted file size.
        max_pixels: largest accepted width times height; all frames of an animated GIF may have four times as many.

    Returns:
        A fault with the code `E_IMAGE_EMPTY`, `E_IMAGE_FORMAT`, `E_IMAGE_TOO_LARGE`, `E_IMAGE_TRUNCATED`
        or `E_IMAGE_DAMAGED`, or None.
    """
    return decode_checked(data, max_bytes, max_pixels)[1]


def decode_checked(
    data: bytes, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray | None, ImageFault | None]:
    """Decode an image to pixels `(H, W, 3)` uint8, or return None and the fault; see `check_image`."""
    if not data:
        return None, ImageFault("E_IMAGE_EMPTY", "Expected an image. Received: a file of 0 bytes")
    if len(data) > max_bytes:
        return None, ImageFault("E_IMAGE_TOO_LARGE", f"Expected at most {max_bytes} bytes. Received: {len(data)}")
    kind = image_format(data)
    if kind is None:
        start = data[:16].hex(" ")
        return None, ImageFault(
            "E_IMAGE_FORMAT", f"Expected {', '.join(_MAGICS)}. Received: {len(data)} bytes that begin with {start}"
        )
    fault = _check_parts(data, kind) or _check_header(data, kind, max_pixels)
    if fault is not None:
        return None, fault
    plain = kind == "JPEG" and _EXIF not in data  # nothing to rotate: two thirds of the time go into the search for it
    try:
        return (_decode_plain_jpeg if plain else _decoder(kind))(data).numpy(), None
    except tf.errors.OpError as error:
        return None, _broken(data, kind, _reason(error))


def hash_pixels(pixels: np.ndarray) -> str:
    """Return the SHA-256, in hex, of shape and pixels: equal for identical images in different formats."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def image_format(data: bytes) -> str | None:
    """Return the format by the first bytes: "JPEG", "PNG", "GIF", "BMP", "WebP", or None."""
    for kind, magic in _MAGICS.items():
        if data.startswith(magic):
            return kind if kind != "WebP" or data[8:12] == b"WEBP" else None
    return None


def image_notes(data: bytes) -> tuple[str, ...]:
    """Return what is unusual about a valid image, from its header.

    Any of "animated", "cmyk", "grey", "palette", "sixteen_bit", "transparent", "turned".
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=_READERS) as image:
        notes = {
            "animated": getattr(image, "is_animated", False) and image.format != "MPO",
            "cmyk": image.mode == "CMYK",
            "grey": image.mode in ("1", "L", "LA", "I;16", "I"),
            "palette": image.mode == "P",
            "sixteen_bit": image.format == "PNG" and data[24] == 16,
            "transparent": image.format != "BMP" and ("A" in image.mode or "transparency" in image.info),
            "turned": image.format in ("JPEG", "MPO") and image.getexif().get(_ORIENTATION, 1) in range(2, 9),
        }
    return tuple(name for name, applies in notes.items() if applies)


def read_bytes(data: tf.Tensor, position, count) -> tf.Tensor:
    """Return `count` bytes from `position` as int32, with zeros past the end."""
    part = tf.strings.substr(data, tf.minimum(position, tf.strings.length(data)), count)
    return tf.cast(tf.io.decode_raw(part, tf.uint8, fixed_length=count), tf.int32)


def _over_white(pixels: tf.Tensor) -> tf.Tensor:
    """Convert `(H, W, 1 | 3 | 4)` uint8 to `(H, W, 3)`: repeat grayscale, blend RGBA over white."""

    def blend() -> tf.Tensor:
        alpha = tf.cast(pixels[..., 3:], tf.int32)
        mixed = tf.cast(pixels[..., :3], tf.int32) * alpha + 255 * (255 - alpha)
        return tf.cast((mixed + 127) // 255, tf.uint8)

    channels = tf.shape(pixels)[2]
    transparent = tf.logical_and(channels == 4, tf.reduce_any(pixels[..., 3:] < 255))
    return tf.cond(
        transparent, blend, lambda: tf.cond(channels == 1, lambda: tf.repeat(pixels, 3, 2), lambda: pixels[..., :3])
    )


def _decode_png(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    depth, color_type = head[24], head[25]
    # With four channels TensorFlow also applies a transparent color, but below 8 bits it fills a
    # missing alpha with 2^depth - 1. With 0 channels a palette is decoded with its own alpha.
    simple = tf.logical_or(depth < 8, color_type == 3)
    pixels = tf.cond(simple, lambda: tf.io.decode_png(data, 0), lambda: tf.io.decode_png(data, 4))
    return _over_white(pixels)


def _decode_gif(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def _decode_bmp(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    def expand_palette() -> tf.Tensor:  # TensorFlow decodes palette indices as grayscale
        start = 14 + to_number(head[14:18])
        colors = tf.clip_by_value((to_number(head[10:14]) - start) // 4, 1, 256)
        palette = tf.reshape(read_bytes(data, start, 4 * colors), (-1, 4))
        indices = tf.cast(tf.io.decode_bmp(data)[..., 0], tf.int32)
        return tf.cast(tf.gather(palette, tf.minimum(indices, colors - 1))[..., 2::-1], tf.uint8)

    return tf.cond(to_number(head[28:30]) == 8, expand_palette, lambda: tf.io.decode_bmp(data, channels=3))


def _decode_webp(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    # TensorFlow 2.20 writes four channels of an animation into a buffer for three if the header has
    # no alpha flag, which overflows the buffer. So the flag is set.
    animated = tf.logical_and(tf.reduce_all(head[12:16] == list(b"VP8X")), (head[20] // 2) % 2 == 1)

    def set_alpha_flag() -> tf.Tensor:
        flag = tf.gather([bytes([number | 16]) for number in range(256)], head[20])
        return tf.strings.join([tf.strings.substr(data, 0, 20), flag, tf.strings.substr(data, 21, 2**31 - 1)])

    data = tf.cond(animated, set_alpha_flag, lambda: data)
    return _over_white(tf.io.decode_image(data, expand_animations=False))


def to_number(digits: tf.Tensor, big_endian=False) -> tf.Tensor:
    """Convert the last axis of bytes to an unsigned number, limited to below 2^31."""
    digits = tf.where(big_endian, tf.reverse(digits, [-1]), digits)
    factors = [256**place for place in range(digits.shape[-1])]
    wide = tf.reduce_sum(tf.cast(digits, tf.int64) * factors, -1)
    return tf.cast(tf.minimum(wide, 2**31 - 1), tf.int32)


def _decode_plain_jpeg(data: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_jpeg(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    pixels = _decode_plain_jpeg(data)
    orientation = _exif_orientation(data)
    return tf.cond(orientation > 1, lambda: _rotate(pixels, orientation), lambda: pixels)


def _rotate(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undo an EXIF orientation 2 to 8: transpose from 5 on, then flip."""
    pixels = tf.cond(orientation > 4, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
    down = tf.reduce_any(orientation == [3, 4, 7, 8])
    across = tf.reduce_any(orientation == [2, 3, 6, 7])
    return tf.reverse(pixels, tf.boolean_mask([0, 1], tf.stack([down, across])))


def _exif_orientation(data: tf.Tensor) -> tf.Tensor:
    """Return the orientation 1 to 8 of a JPEG; 1 if it has none."""
    exif = [0xFF, 0xE1, *_EXIF]

    def is_exif(head) -> tf.Tensor:
        return tf.reduce_all(tf.concat([head[:2], head[4:]], 0) == exif)

    def is_skippable(_, head) -> tf.Tensor:  # other application segments, comments and fill bytes
        application = tf.logical_or(head[1] // 16 == 0xE, head[1] >= 0xFE)
        return tf.logical_and(head[0] == 0xFF, tf.logical_and(application, tf.logical_not(is_exif(head))))

    def step(position, head) -> tuple[tf.Tensor, tf.Tensor]:
        position += tf.where(head[1] == 0xFF, 1, 2 + 256 * head[2] + head[3])
        return position, read_bytes(data, position, 10)

    position, head = tf.while_loop(is_skippable, step, (tf.constant(2), read_bytes(data, 2, 10)))

    def read() -> tf.Tensor:
        return _tiff_orientation(tf.strings.substr(data, position + 10, tf.maximum(0, 256 * head[2] + head[3] - 8)))

    return tf.cond(is_exif(head), read, lambda: tf.constant(1))


def _tiff_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Return the orientation in the first directory of a TIFF structure of either byte order."""
    head, length = read_bytes(tiff, 0, 8), tf.strings.length(tiff)
    big = tf.reduce_all(head[:4] == list(b"MM\x00*"))
    valid = tf.logical_or(big, tf.reduce_all(head[:4] == list(b"II*\x00")))
    start = tf.minimum(to_number(head[4:8], big), length)
    count = tf.minimum(to_number(read_bytes(tiff, start, 2), big), tf.maximum(0, length - start - 2) // 12)
    table = tf.io.decode_raw(tf.strings.substr(tiff, tf.minimum(start + 2, length), 12 * count), tf.uint8)
    entries = tf.reshape(tf.cast(table, tf.int32), (-1, 12))
    short = to_number(entries[:, 8:10], big)
    value = tf.where(
        to_number(entries[:, 2:4], big) == 4, tf.where(big, to_number(entries[:, 10:12], big), short), short
    )
    matches = tf.reduce_all([to_number(entries[:, :2], big) == _ORIENTATION, value >= 1, value <= 8], 0)
    orientations = tf.concat([tf.boolean_mask(value, tf.logical_and(matches, valid)), [1]], 0)
    return orientations[0]


def _check_parts(data: bytes, kind: str) -> ImageFault | None:
    parts, place = 0, 2
    if kind == "JPEG":  # segments and fill bytes before the first scan
        while (code := data[place : place + 2])[:1] == b"\xff" and code != _SCAN and parts <= _MAX_PARTS[kind]:
            place += 1 if code == b"\xff\xff" else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            parts += 1
    elif kind == "GIF":  # extensions and frames, each after the end of another; chance adds a few hundred
        parts = data.count(b"\0!") + data.count(b"\0,")
    if parts > _MAX_PARTS.get(kind, 0):
        return ImageFault("E_IMAGE_TOO_LARGE", f"Expected a {kind} of at most {_MAX_PARTS[kind]} parts. Received: more")
    return None


def _check_header(data: bytes, kind: str, max_pixels: int) -> ImageFault | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=_READERS) as image:
            width, height = image.size
            frames = getattr(image, "n_frames", 1) if kind == "GIF" else 1
            scans = data.count(_SCAN) if kind == "JPEG" else 1  # each goes over all pixels
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return ImageFault("E_IMAGE_TOO_LARGE", f"Expected at most {max_pixels} pixels. Received: {error}")
    except UnidentifiedImageError:  # its message has only the address of the object
        return _broken(data, kind, "its header cannot be read")
    except Exception as error:  # Pillow raises many kinds of errors for damaged headers
        return _broken(data, kind, str(error))
    if width * height > max_pixels or width * height * frames > 4 * max_pixels:
        times = f" x {frames} frames" if frames > 1 else ""
        return ImageFault(
            "E_IMAGE_TOO_LARGE", f"Expected at most {max_pixels} pixels. Received: {width} x {height}{times}"
        )
    if width * height * scans > _MAX_SCANS * max_pixels:
        return ImageFault(
            "E_IMAGE_TOO_LARGE",
            f"Expected at most {_MAX_SCANS} times {max_pixels} pixels in all scans. Received: {width} x {height} x "
            f"{scans} scans",
        )
    return None


def _reason(error: tf.errors.OpError) -> str:
    """Return the message of the operation, without the trace of the graph."""
    lines = error.message.partition("\n\t [[")[0].strip().splitlines() or [""]
    return lines[-1].rpartition("}} ")[2].partition(" [Op:")[0]


def _broken(data: bytes, kind: str, reason: str) -> ImageFault:
    """Return the fault of an image with a valid start: truncated if its end marker is missing, else damaged."""
    ends = {
        "JPEG": lambda: data.rstrip(b"\0").endswith(b"\xff\xd9"),
        "PNG": lambda: b"IEND\xaeB`\x82" in data[-64:],
        "GIF": lambda: data.rstrip(b"\0").endswith(b";"),
        "BMP": lambda: len(data) >= int.from_bytes(data[2:6], "little"),
        "WebP": lambda: len(data) >= 8 + int.from_bytes(data[4:8], "little"),
    }
    reason = reason.strip().splitlines()[0] if reason.strip() else "it cannot be decoded"
    if ends[kind]():
        return ImageFault("E_IMAGE_DAMAGED", f"Expected a {kind} image. Received: {len(data)} bytes; {reason}")
    return ImageFault(
        "E_IMAGE_TRUNCATED", f"Expected a complete {kind} image. Received: its first {len(data)} bytes; {reason}"
    )
