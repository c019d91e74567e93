"""The tests of this folder run on both kinds of store."""

import pytest


@pytest.fixture(params=["s3", "gs"])
def bucket(request, make_bucket):
    """An empty folder of a store."""
    return make_bucket(request.param)
