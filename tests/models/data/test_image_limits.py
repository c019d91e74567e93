"""Limits on images: what would take too much memory or time is refused before it is decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from anchorage.data.images import check_image


def encode(image, kind, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_f07_oversized_image_is_refused_by_its_header():
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 16000, 16000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    fault = check_image(png + struct.pack(">I", 10) + b"IDAT" + bytes(14))
    assert fault.code == "E_IMAGE_TOO_LARGE"
    assert "Expected at most 50000000 pixels" in fault.message
    jpeg = encode(np.zeros((24, 40, 3), np.uint8), "JPEG")
    assert check_image(jpeg, max_pixels=24 * 40) is None
    assert check_image(jpeg, max_pixels=24 * 40 - 1).message.endswith("Received: 40 x 24")
    assert check_image(jpeg, max_bytes=100).code == "E_IMAGE_TOO_LARGE"


def test_f07_frames_of_a_gif_count():
    frames = [Image.fromarray(np.full((10, 10), number, np.uint8)) for number in range(6)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert check_image(data, max_pixels=150) is None
    assert "10 x 10 x 6 frames" in check_image(data, max_pixels=140).message


@pytest.mark.parametrize("part", [b"\xff\xe0\x00\x02", b"\xff\xfe\x00\x02", b"\xff"], ids=["app", "comment", "fill"])
def test_a_jpeg_of_many_segments_is_refused_before_they_are_read(part, monkeypatch):
    data = encode(np.zeros((8, 8, 3), np.uint8), "JPEG")
    some, many = (data[:2] + part * count + b"\xff\xe1\x00\x08Exif\0\0" + data[2:] for count in (900, 100_000))
    assert check_image(some) is None
    monkeypatch.setattr(Image, "open", None)
    assert check_image(many).code == "E_IMAGE_TOO_LARGE"


def test_a_gif_of_many_extensions_is_refused_before_they_are_read():
    data = encode(np.zeros((8, 8, 3), np.uint8), "GIF")
    first = data.index(b",", 13 + 3 * 2 ** (1 + data[10] % 8))
    comments = data[:first] + b"!\xfe\x01a\x00" * 100_000 + data[first:]
    assert check_image(comments).code == "E_IMAGE_TOO_LARGE"


def test_scans_of_a_jpeg_count():
    data = encode(np.zeros((64, 64, 3), np.uint8), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert check_image(data, max_pixels=64 * 64) is None
    fault = check_image(data[:-2] + last * 100 + data[-2:], max_pixels=64 * 64)
    assert (fault.code, "scans" in fault.message) == ("E_IMAGE_TOO_LARGE", True)
