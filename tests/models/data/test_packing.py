"""Packing: encoded images become rows in their order, whatever the size of a batch."""

import io

import numpy as np
import pytest
from PIL import Image

from anchorage.data.examples import Example
from anchorage.data.packing import decode_records
from anchorage.data.store import RecordSpec
from anchorage.errors import DataError


def example(number, data=None):
    if data is None:
        file = io.BytesIO()
        Image.new("RGB", (6, 4), (number, 0, 255 - number)).save(file, "PNG")
        data = file.getvalue()
    return Example(f"{number}.png", f"class-{number % 3}", "query", data)


def test_more_images_than_one_batch_keep_their_order():
    records = list(decode_records(map(example, range(70)), RecordSpec(2)))
    assert [(record.id, record.label, record.role) for record in records] == [
        (f"{number}.png", f"class-{number % 3}", "query") for number in range(70)
    ]
    for number, record in enumerate(records):
        np.testing.assert_array_equal(record.content, np.tile([number, 0, 255 - number], (2, 2, 1)))


def test_an_image_that_cannot_be_decoded_is_named():
    whole = example(3).content
    with pytest.raises(DataError, match=r"Expected validated images in the examples. Received: '4\.png'"):
        list(decode_records([example(3), example(4, whole[:40]), example(5)], RecordSpec(2)))


def test_nothing_gives_nothing():
    assert list(decode_records([], RecordSpec(2, "pad"))) == []
