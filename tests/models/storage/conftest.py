"""The tests of this folder run on both kinds of store."""

import pytest


@pytest.fixture
def bucket(either_bucket):
    return either_bucket
