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


def test_keys_are_sorted_unless_their_order_counts():
    value = {"margin": 1, "alpha": 2}
    assert list(from_parameter(to_parameter(value))) == ["alpha", "margin"]
    assert list(from_parameter(to_parameter(value, ordered=True))) == ["margin", "alpha"]


def test_plain_json_is_read_too():
    assert from_parameter('{"share": "5%25"}') == {"share": "5%25"}
