import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from anchorage.data.images import (
    check_image,
    decode_checked,
    decode_image,
    image_format,
    image_notes,
    load_image,
    resize_image,
)

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
ALPHA = np.array([[0, 1, 64, 127, 128, 254, 255]] * 5, np.uint8)
RGBA = np.dstack([RGB, ALPHA])
OVER_WHITE = np.rint((RGB * (ALPHA[..., None] / 255.0)) + 255.0 * (1 - ALPHA[..., None] / 255.0)).astype(int)


def encode(image, kind, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data):
    image = decode_image(data)
    assert image.dtype == tf.uint8
    return image.numpy()


def palette_image():
    image = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    return image


COLORS = [[10, 20, 30], [200, 100, 50], [1, 2, 3], [200, 100, 50]]


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("PNG", {"optimize": True})]
)
def test_lossless_color(kind, options):
    assert decode(encode(RGB, kind, **options)).tolist() == RGB.tolist()


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_grey_gives_three_equal_channels(kind):
    assert decode(encode(RGB[..., 0], kind)).tolist() == np.repeat(RGB[..., :1], 3, 2).tolist()


def test_one_bit_png():
    data = encode(Image.fromarray(np.array([[True, False, True]])), "PNG")
    assert decode(data).tolist() == [[[255] * 3, [0] * 3, [255] * 3]]


def test_16_bit_png_keeps_the_high_byte():
    data = encode(np.array([[0, 255, 256, 0xABCD, 65535]], np.uint16), "PNG")
    assert decode(data)[0].tolist() == [[value] * 3 for value in (0, 0, 1, 0xAB, 255)]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palette_is_expanded(kind):
    assert decode(encode(palette_image(), kind)).tolist() == [COLORS]


def test_palette_of_256_colors():
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None], "P")
    ramp.putpalette(RNG.integers(0, 256, 768, np.uint8).tolist())
    expected = np.asarray(ramp.convert("RGB")).tolist()
    for kind in ("PNG", "BMP", "GIF"):
        assert decode(encode(ramp, kind)).tolist() == expected


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_alpha_is_laid_over_white(kind, options):
    pixels = decode(encode(RGBA, kind, **options)).astype(int)
    assert pixels[:, 0].tolist() == [[255] * 3] * 5
    assert pixels[:, -1].tolist() == RGB[:, -1].tolist()
    assert abs(pixels - OVER_WHITE).max() <= 1


def test_grey_with_alpha_is_laid_over_white():
    pixels = decode(encode(np.array([[[200, 0], [200, 51], [200, 255]]], np.uint8), "PNG"))
    assert pixels[0].tolist() == [[255] * 3, [244] * 3, [200] * 3]  # 0.2 * 200 + 0.8 * 255 = 244


def test_palette_with_alpha_is_laid_over_white():
    data = encode(palette_image(), "PNG", transparency=bytes([255, 51, 0]))
    assert decode(data)[0].tolist() == [[10, 20, 30], [244, 224, 214], [255, 255, 255], [244, 224, 214]]


def test_transparent_color_of_a_png_turns_white():
    data = encode(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), "PNG", transparency=(1, 2, 3))
    assert decode(data)[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_fourth_channel_of_a_bmp_is_ignored():
    assert decode(encode(RGBA, "BMP")).tolist() == RGB.tolist()


def test_transparent_part_of_a_gif_is_black():
    assert decode(encode(palette_image(), "GIF", transparency=1))[0].tolist() == [
        [10, 20, 30],
        [0] * 3,
        [1, 2, 3],
        [0] * 3,
    ]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_animated_webp_gives_its_first_frame(mode):
    first, second = np.full((9, 6, 4), (200, 30, 7, 255), np.uint8), np.full((9, 6, 4), (9, 9, 9, 128), np.uint8)
    first[0, 0] = (1, 2, 3, 255)
    frames = [Image.fromarray(frame[..., : len(mode)].copy()) for frame in (first, second)]
    data = encode(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    for _ in range(20):  # TensorFlow alone writes past the end of its memory here
        assert decode(data).tolist() == first[..., :3].tolist()


def test_animated_gif_gives_its_first_frame():
    second = palette_image()
    second.putdata([2, 2, 0, 0])
    data = encode(palette_image(), "GIF", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert decode(data).tolist() == [COLORS]


def test_cmyk_jpeg():
    image = Image.new("CMYK", (16, 8), (10, 200, 30, 40))
    pixels = decode(encode(image, "JPEG", quality=100)).astype(int)
    assert pixels.shape == (8, 16, 3)
    assert abs(pixels - image.convert("RGB").getpixel((0, 0))).max() <= 2


def test_grey_and_color_jpeg():
    assert decode(encode(np.full((8, 8), 77, np.uint8), "JPEG")).tolist() == np.full((8, 8, 3), 77).tolist()
    data = encode(np.full((8, 8, 3), (250, 128, 3), np.uint8), "JPEG", quality=100)
    assert abs(decode(data).astype(int) - (250, 128, 3)).max() <= 2


def picture():
    """A smooth 24 x 40 picture that looks different from every side."""
    rows, columns = np.mgrid[:24, :40]
    return np.dstack([rows * 10, columns * 6, (rows + columns) * 3]).astype(np.uint8)


def exif(order, orientation, kind=3, entries=2):
    """An EXIF block with a maker's name before the orientation."""
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    directory = struct.pack(order + "HHI4s", 0x010F, 2, 3, b"abc\0")
    directory += struct.pack(order + "HHI", 0x0112, kind, 1) + value
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return b"Exif\0\0" + mark + struct.pack(order + "IH", 8, entries) + directory + bytes(4)


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(*segments):
    """The picture as JPEG with these segments after its JFIF header."""
    data = encode(picture(), "JPEG", quality=95)
    end = 4 + int.from_bytes(data[4:6], "big")
    return data[:end] + b"".join(segments) + data[end:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_pillow_applies_it(order, orientation):
    data = with_segments(segment(0xE1, exif(order, orientation)))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(int)
    assert expected.shape == ((24, 40, 3) if orientation < 5 else (40, 24, 3))
    pixels = decode(data).astype(int)
    assert pixels.shape == expected.shape
    assert abs(pixels - expected).max() <= 4


@pytest.mark.parametrize(
    "before",
    [
        [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")],
        [segment(0xE2, b"ICC_PROFILE\0" + bytes(5000)), segment(0xFE, b"a comment"), b"\xff\xff\xff"],
    ],
)
def test_exif_is_found_behind_other_segments(before):
    assert decode(with_segments(*before, segment(0xE1, exif(">", 6)))).shape == (40, 24, 3)


def test_exif_directly_after_the_start():
    data = encode(picture(), "JPEG")
    assert decode(data[:2] + segment(0xE1, exif("<", 8)) + data[2:]).shape == (40, 24, 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_as_long_number(order):
    assert decode(with_segments(segment(0xE1, exif(order, 6, kind=4)))).shape == (40, 24, 3)


@pytest.mark.parametrize(
    "block",
    [
        exif("<", 0),
        exif("<", 9),
        exif("<", 6, entries=1),
        exif("<", 6)[:20],
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0" + b"XX*\0" + exif("<", 6)[10:],
        exif("<", 6, entries=65535)[:-20],
    ],
)
def test_exif_without_usable_orientation_changes_nothing(block):
    assert decode(with_segments(segment(0xE1, block))).shape == (24, 40, 3)


@pytest.mark.parametrize(
    "data",
    [
        with_segments(),
        with_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0")),
        with_segments(segment(0xE1, exif("<", 5))),
        with_segments(segment(0xFE, b"no Exif\0\0 but a comment")),
    ],
)
def test_a_check_gives_the_very_pixels_of_the_graph(data):
    """It leaves out the search for an orientation where a file has none."""
    np.testing.assert_array_equal(decode_checked(data)[0], decode_image(data))


def test_lying_segment_length_does_not_hang():
    for length in (b"\0\0", b"\0\1", b"\xff\xff"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_image(b"\xff\xd8\xff\xe0" + length + b"\xff\xe0" + length)


def test_decoding_runs_in_a_saved_model(tmp_path):
    def embed(images):
        return tf.map_fn(lambda data: load_image(data, 8, "crop"), images, fn_output_signature=tf.uint8)

    module = tf.Module()
    module.embed = tf.function(embed, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    files = [encode(RGB, "PNG"), encode(picture(), "JPEG"), with_segments(segment(0xE1, exif("<", 5)))]
    files += [encode(RGBA, "WEBP"), encode(palette_image(), "GIF"), encode(palette_image(), "BMP")]
    images = tf.saved_model.load(str(tmp_path)).embed(tf.constant(files)).numpy()
    assert images.shape == (6, 8, 8, 3)
    for data, image in zip(files, images, strict=True):
        assert load_image(data, 8, "crop").numpy().tolist() == image.tolist()


def test_image_of_the_right_size_is_left_as_it_is():
    square = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    for fit in ("crop", "pad", "squash"):
        assert resize_image(square, 6, fit).numpy().tolist() == square.tolist()


def test_crop_takes_the_centred_square():
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = RGB[:4, :4]
    assert resize_image(wide, 4, "crop").numpy().tolist() == RGB[:4, :4].tolist()
    assert resize_image(wide.transpose(1, 0, 2), 4, "crop").numpy().tolist() == RGB[:4, :4].transpose(1, 0, 2).tolist()


def test_pad_keeps_everything_and_adds_white():
    image = resize_image(np.full((2, 8, 3), 9, np.uint8), 4, "pad").numpy()
    assert image[..., 0].tolist() == [[255] * 4, [9] * 4, [255] * 4, [255] * 4]
    sliver = resize_image(np.full((1, 100, 3), 9, np.uint8), 4, "pad").numpy()
    assert (sliver[..., 0] == 9).sum() == 4


def test_squash_stretches():
    halves = np.zeros((2, 8, 3), np.uint8)
    halves[1] = 100
    assert resize_image(halves, 2, "squash").numpy()[..., 0].tolist() == [[0, 0], [100, 100]]


def test_shrinking_averages_instead_of_skipping():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    assert abs(resize_image(stripes, 2, "crop").numpy().astype(int) - 100).max() <= 15


def test_fit_and_size_are_checked():
    with pytest.raises(ValueError, match=r"`fit` must be one of crop, pad, squash. Received: fit='zoom'"):
        resize_image(RGB, 4, "zoom")
    with pytest.raises(ValueError, match=r"`size` must be at least 1. Received: size=0"):
        resize_image(RGB, 0, "crop")


GOOD = {
    "JPEG": encode(picture(), "JPEG"),
    "PNG": encode(RGB, "PNG"),
    "GIF": encode(palette_image(), "GIF"),
    "BMP": encode(RGB, "BMP"),
    "WebP": encode(picture(), "WEBP"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_images_pass(kind):
    assert check_image(GOOD[kind]) is None
    assert image_format(GOOD[kind]) == kind


@pytest.mark.parametrize("kind", GOOD)
def test_f01_cut_off_images_are_faults_wherever_the_cut_is(kind):
    data = GOOD[kind]
    whole = decode(data).tolist()
    for length in {*range(8, len(data) - 1, max(1, len(data) // 40)), len(data) // 2, len(data) - 4}:
        fault = check_image(data[:length])
        if fault is None:  # nothing but the end mark is missing
            assert decode(data[:length]).tolist() == whole
        else:
            assert fault.code == ("E_IMAGE_TRUNCATED" if image_format(data[:length]) else "E_IMAGE_FORMAT")
    fault = check_image(data[: len(data) // 2])
    assert fault is not None
    assert f"Received: its first {len(data) // 2} bytes" in fault.message


@pytest.mark.parametrize("data", [b"<html>not found</html>", b"\0" * 100, b"RIFF\x10\0\0\0WAVEfmt ", b"\xff\xd8"])
def test_f03_other_content_is_refused_with_its_first_bytes(data):
    fault = check_image(data)
    assert fault.code == "E_IMAGE_FORMAT"
    assert data[:16].hex(" ") in fault.message


def test_f03_empty_file():
    assert check_image(b"").code == "E_IMAGE_EMPTY"


def test_a_damaged_png_has_another_code_than_a_cut_off_one():
    data = bytearray(GOOD["PNG"])
    data[50] ^= 0xFF
    fault = check_image(bytes(data))
    assert fault.code == "E_IMAGE_DAMAGED"
    assert fault.message == f"Expected a PNG image. Received: {len(data)} bytes; Invalid PNG data, size {len(data)}"


def test_f04_f05_what_was_settled_is_noted():
    frames = [Image.fromarray(np.full((10, 10), number * 9, np.uint8)) for number in range(2)]
    animated = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert "animated" in image_notes(animated)
    assert image_notes(encode(Image.new("CMYK", (8, 8)), "JPEG")) == ("cmyk",)
    assert image_notes(encode(np.zeros((2, 2), np.uint16), "PNG")) == ("grey", "sixteen_bit")
    assert image_notes(encode(palette_image(), "PNG", transparency=1)) == ("palette", "transparent")
    assert image_notes(encode(RGBA, "WEBP")) == ("transparent",)
    assert image_notes(with_segments(segment(0xE1, exif("<", 6)))) == ("turned",)
    for kind in ("JPEG", "PNG", "WebP"):
        assert image_notes(GOOD[kind]) == ()


@pytest.mark.parametrize("magic", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF\x04\0\0\0WEBP"])
def test_a_broken_header_is_reported_without_names_of_python_objects(magic):
    fault = check_image(magic + bytes(40))
    assert fault.code in ("E_IMAGE_TRUNCATED", "E_IMAGE_DAMAGED")
    assert "BytesIO" not in fault.message
