"""Parameters of nodes: JSON values as text."""

import pytest

from anchorage_components.parameters import from_parameter, to_parameter

VALUES = [
    {"file": 'name = "shop"\nlabel = "50 %"\n', "margin": 0.5, "tags": ["a\\b", "ä"], "none": None},
    ["test", "val"],
    {},
    [],
    0.5,
    "100 %",
]


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_read_as_it_was_written(value, encoded):
    assert from_parameter(to_parameter(value, encoded=encoded)) == value


@pytest.mark.parametrize("value", VALUES)
def test_an_encoded_value_needs_no_backslash_even_within_another_json_text(value):
    assert not {"\\", '"'} & set(to_parameter(value, encoded=True))


def test_plain_json_is_read_too():
    assert from_parameter('{"share": "5%25"}') == {"share": "5%25"}
