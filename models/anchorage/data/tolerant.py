"""Decoding inside an exported model where a bad image costs its own row, not the batch.

TensorFlow's graphs cannot catch an error of an operation, but its datasets can leave out an element that fails, and
datasets run inside graphs. So each image is an element, and rows without a result are marked. All operations are in
TensorFlow's core, so that stock TensorFlow Serving has them.
"""

from collections.abc import Callable
from functools import partial

import tensorflow as tf

from anchorage.data.images import HEAD_BYTES, format_flags, load_image, read_bytes, to_number
from anchorage.data.limits import MAX_BYTES, MAX_PIXELS

_PARALLEL = 8  # images of a batch that are decoded at once


def load_valid(images: tf.Tensor, size: int, fit: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode and resize the images that `anchorage.data.images.check_image` accepts.

    Args:
        images: `(N,)` strings, encoded images.
        size: side of the results in pixels.
        fit: see `anchorage.data.images.resize_image`.

    Returns:
        `(N, size, size, 3)` uint8 pixels, black for an image that is empty, damaged, cut off, too large or of no known
        format, and `(N,)` bool, False for these.
    """
    return try_each(lambda image: load_image(limited(image), size, fit), images, (size, size, 3), tf.uint8)


def try_each(
    function: Callable[[tf.Tensor], tf.Tensor], elements: tf.Tensor, shape: tuple[int, ...], dtype: tf.DType
) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply a function to each element, with a result of zeros where it raises an error.

    Args:
        function: from an element of `elements` to a tensor of `shape` and `dtype`.
        elements: `(N, ...)`.
        shape: shape of one result.
        dtype: type of the results; numbers or strings.

    Returns:
        Results `(N, *shape)`, zeros or empty strings where the function failed, and `(N,)` bool, False there.
    """
    rows = tf.shape(elements, tf.int64)[0]
    blank = tf.fill(shape, "") if dtype == tf.string else tf.zeros(shape, dtype)
    results = (
        tf.data.Dataset.from_tensor_slices((tf.range(rows), elements))
        .map(lambda row, element: (row, function(element)), num_parallel_calls=_PARALLEL, deterministic=False)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors((rows, blank)))  # so that there is a batch if all elements fail
        .batch(rows + 1)
        .with_options(_plain_options())
    )
    numbers, values = results.get_single_element()
    start = tf.fill(tf.concat([[rows + 1], tf.cast(shape, tf.int64)], 0), blank[(0,) * len(shape)] if shape else blank)
    filled = tf.tensor_scatter_nd_update(start, numbers[:, None], values)[:rows]
    found = tf.tensor_scatter_nd_update(tf.zeros(rows + 1, tf.int32), numbers[:, None], tf.ones_like(numbers, tf.int32))
    return tf.ensure_shape(filled, (None, *shape)), found[:rows] > 0


def _plain_options() -> tf.data.Options:
    """No rewriting and no tuning, which take longer than the work on a small batch."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return options


def limited(image: tf.Tensor) -> tf.Tensor:
    """Return the bytes of an image; raise an error if its file or, by its header, its pixels are over the limits."""
    within = tf.debugging.Assert(tf.strings.length(image) <= MAX_BYTES, ["The file is too large"])
    with tf.control_dependencies([within]):
        image = tf.identity(image)
    largest, total = _count_pixels(image)
    small = tf.logical_and(largest <= MAX_PIXELS, total <= 4 * MAX_PIXELS)
    with tf.control_dependencies([tf.debugging.Assert(small, ["The image is too large"])]):
        return tf.identity(image)


def _count_pixels(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Read from the header the pixels of the largest frame and of all frames, int64; 0 for an unknown format."""
    head = read_bytes(image, 0, HEAD_BYTES)
    counts = [_count_jpeg, _count_png, _count_gif, _count_bmp, _count_webp]
    branches: list[Callable] = [partial(count, image, head) for count in counts]
    branches.append(lambda: (tf.constant(0, tf.int64),) * 2)  # decoding reports the error
    flags = format_flags(head)
    return tf.switch_case(
        tf.where(tf.reduce_any(flags > 0), tf.argmax(flags, output_type=tf.int32), len(counts)), branches
    )


def _area(width: tf.Tensor, height: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    pixels = tf.cast(width, tf.int64) * tf.cast(height, tf.int64)
    return pixels, pixels


def _count_jpeg(image: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image), 3)
    return _area(width, height)


def _count_png(image: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _area(to_number(head[16:20], True), to_number(head[20:24], True))


def _count_bmp(image: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # A negative height is one of rows from top to bottom.
    height = tf.where(head[25] < 128, to_number(head[22:26]), to_number(255 - head[22:26]) + 1)
    return _area(to_number(head[18:22]), height)


def _count_webp(image: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    def lossy() -> tuple[tf.Tensor, tf.Tensor]:
        return to_number(head[26:28]) % 2**14, to_number(head[28:30]) % 2**14

    def lossless() -> tuple[tf.Tensor, tf.Tensor]:
        low, high = to_number(head[21:23]), to_number(head[22:25]) // 2**6
        return 1 + low % 2**14, 1 + high % 2**14

    def extended() -> tuple[tf.Tensor, tf.Tensor]:
        return 1 + to_number(head[24:27]), 1 + to_number(head[27:30])

    kind = tf.where(head[15] == ord("L"), 1, tf.where(head[15] == ord("X"), 2, 0))
    return _area(*tf.switch_case(kind, [lossy, lossless, extended]))


def _count_gif(image: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Walk over the blocks of the file: a small file can have frames of any size, and many."""

    def colors(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def more(position, inside, block, largest, total) -> tf.Tensor:
        known = tf.logical_or(block[0] == 0x21, block[0] == 0x2C)  # an extension or a frame
        unread = tf.logical_and(position < length, total <= 4 * MAX_PIXELS)
        return tf.logical_and(unread, tf.logical_or(inside, known))

    def step(position, inside, block, largest, total) -> tuple[tf.Tensor, ...]:
        frame = tf.logical_and(block[0] == 0x2C, tf.logical_not(inside))
        right, bottom = to_number(block[1:3]) + to_number(block[5:7]), to_number(block[3:5]) + to_number(block[7:9])
        pixels = tf.where(frame, tf.cast(right, tf.int64) * tf.cast(bottom, tf.int64), 0)
        skipped = tf.where(inside, 1 + block[0], tf.where(frame, 11 + colors(block[9]), 2))
        inside = tf.logical_or(tf.logical_not(inside), block[0] > 0)  # a part of length 0 ends a block
        largest = tf.maximum(largest, pixels)
        total += tf.where(frame, tf.maximum(pixels, screen), 0)
        return position + skipped, inside, read_bytes(image, position + skipped, 10), largest, total

    length = tf.strings.length(image)
    screen, _ = _area(to_number(head[6:8]), to_number(head[8:10]))
    start = 13 + colors(head[10])
    state = (start, tf.constant(False), read_bytes(image, start, 10), screen, tf.constant(0, tf.int64))
    *_, largest, total = tf.while_loop(more, step, state)
    return largest, total
