import inspect
import subprocess
import sys

import pytest

from anchorage.catalogue import describe_loss, describe_losses
from anchorage.errors import UsageError
from anchorage.losses import LOSSES
from anchorage.registry import constructor_parameters

DESCRIBED = {loss.name: loss for loss in describe_losses()}


def test_every_loss_of_the_table_is_described():
    assert list(DESCRIBED) == sorted(LOSSES)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_description_read_from_the_source_is_that_of_the_class(name):
    cls, expected = LOSSES[name], DESCRIBED[name]
    assert expected.parameters == constructor_parameters(cls)
    assert list(expected.parameters) == list(constructor_parameters(cls))
    assert expected.text == inspect.getdoc(cls)
    assert expected.summary == expected.text.splitlines()[0]
    assert expected.paper == sys.modules[cls.__module__].__doc__.splitlines()[0]
    assert expected.paper.rstrip(".")[-1].isalnum()
    assert describe_loss(name) == expected


def test_a_class_from_outside_is_described_too():
    description = describe_loss("keras.losses:Circle")
    assert description.parameters["margin"] == 0.4
    assert "Circle Loss" in description.summary


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN.*Did you mean 'circle'"):
        describe_loss("circel")


def test_listing_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys\nfrom anchorage_pipeline.cli import main\nmain(['losses']), main(['losses', 'triplet'])\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
