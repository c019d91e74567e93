"""The chain of causes of an error."""

from anchorage.errors import causes


def test_a_chain_of_causes_that_leads_back_into_itself_ends():
    first, second = OSError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    assert list(causes(first)) == [first, second]
    second.__context__ = second
    assert list(causes(first)) == [first, second]
