"""IndexLimits that the exported model reads from headers: the numbers of Pillow, which reads the same headers."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from anchorage.data import tolerant
from anchorage.data.tolerant import limited, load_valid, try_each

SIZES = [(1, 1), (300, 7), (129, 1025)]


def encode(width, height, kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, (width, height), 5).save(buffer, kind, **options)
    return buffer.getvalue()


def frames(*sizes):
    """A GIF whose frames have different sizes and colors, the first as large as the screen."""
    buffer = io.BytesIO()
    first, *rest = [Image.new("L", size, 40 * number) for number, size in enumerate(sizes)]
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=50, disposal=2)
    return buffer.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("WebP", {}), ("WebP", {"lossless": True}),
     ("WebP", {"exif": b"Exif\x00\x00"})],
)  # fmt: skip
def test_limit_of_pixels_is_exact(monkeypatch, size, kind, options):
    image = encode(*size, kind, **options)
    pixels = size[0] * size[1]
    monkeypatch.setattr(tolerant, "MAX_PIXELS", pixels)
    assert limited(tf.constant(image)).numpy() == image
    monkeypatch.setattr(tolerant, "MAX_PIXELS", pixels - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        limited(tf.constant(image))


def test_bmp_from_top_to_bottom_has_a_negative_height(monkeypatch):
    image = bytearray(encode(30, 20, "BMP"))
    image[22:26] = (-20).to_bytes(4, "little", signed=True)
    monkeypatch.setattr(tolerant, "MAX_PIXELS", 600)
    assert limited(tf.constant(bytes(image))).numpy() == bytes(image)
    monkeypatch.setattr(tolerant, "MAX_PIXELS", 599)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        limited(tf.constant(bytes(image)))


def test_all_frames_of_an_animation_may_have_four_times_the_pixels(monkeypatch):
    monkeypatch.setattr(tolerant, "MAX_PIXELS", 1000)
    four, five = ([(40 - n, 25) for n in range(count)] for count in (4, 5))
    assert limited(tf.constant(frames(*four))).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        limited(tf.constant(frames(*five)))


def test_a_frame_larger_than_its_screen_counts(monkeypatch):
    image = bytearray(encode(8, 8, "GIF"))
    start = image.index(b"\x2c")
    image[start + 5 : start + 9] = (5_000).to_bytes(2, "little") * 2
    monkeypatch.setattr(tolerant, "MAX_PIXELS", 5_000 * 5_000 - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        limited(tf.constant(bytes(image)))


def test_limit_of_bytes(monkeypatch):
    image = encode(4, 4, "PNG")
    monkeypatch.setattr(tolerant, "MAX_BYTES", len(image) - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        limited(tf.constant(image))


def test_random_bytes_and_cut_files_of_every_format_are_marked():
    random = np.random.default_rng(0)
    images = [encode(40, 30, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WebP")]
    bad = [image[:20] + random.bytes(60) for image in images] + [image[:30] for image in images] + [random.bytes(200)]
    pixels, valid = load_valid(tf.constant(images + bad), 8, "crop")
    assert valid.numpy().tolist() == [True] * 5 + [False] * len(bad)
    assert not pixels.numpy()[5:].any()


def test_each_element_fails_alone_and_keeps_its_place():
    def root(value):
        with tf.control_dependencies([tf.debugging.assert_greater_equal(value, 0.0)]):
            return tf.stack([tf.sqrt(value), value])

    results, valid = tf.function(lambda values: try_each(root, values, (2,), tf.float32))(tf.constant([4.0, -1, 9, -4]))
    assert valid.numpy().tolist() == [True, False, True, False]
    np.testing.assert_array_equal(results, [[2, 4], [0, 0], [3, 9], [0, 0]])
