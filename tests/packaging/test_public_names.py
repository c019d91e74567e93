"""What models/README.md promises to keep: names in `__all__` of the packages it lists."""

import importlib
import re
from pathlib import Path

import pytest

import anchorage
from anchorage.data import sampling
from anchorage.data.sampling import SAMPLERS
from anchorage.losses import LOSSES
from anchorage.methods import METHODS
from anchorage.mining import MINERS
from anchorage.regularizers import REGULARIZERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
STABLE = re.findall(r"^\| `(anchorage[a-z_.]*)` \|", PAGE, re.MULTILINE)
TABLES = {
    "anchorage.data.sampling": SAMPLERS,
    "anchorage.losses": LOSSES,
    "anchorage.methods": METHODS,
    "anchorage.mining": MINERS,
    "anchorage.regularizers": REGULARIZERS,
}


@pytest.mark.parametrize("name", STABLE)
def test_every_promised_name_is_there(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [each for each in module.__all__ if not hasattr(module, each)] == []


@pytest.mark.parametrize("name", TABLES)
def test_every_class_of_a_table_can_be_imported_by_its_name(name):
    assert name in STABLE
    module = importlib.import_module(name)
    for cls in TABLES[name].values():
        assert cls.__name__ in module.__all__
        assert getattr(module, cls.__name__) is cls


def test_other_names_are_not_exported():
    assert not hasattr(anchorage, "nothing")
    assert not hasattr(importlib.import_module("anchorage.retrieval"), "nothing")


def test_samplers_share_a_base_that_is_promised_too():
    assert sampling.CentredSampler.__name__ in sampling.__all__
