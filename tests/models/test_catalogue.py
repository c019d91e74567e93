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
    cls, told = LOSSES[name], DESCRIBED[name]
    assert told.parameters == constructor_parameters(cls)
    assert list(told.parameters) == list(constructor_parameters(cls))
    assert told.text == inspect.getdoc(cls)
    assert told.summary == told.text.splitlines()[0]
    assert told.paper == sys.modules[cls.__module__].__doc__.splitlines()[0]
    assert told.paper.rstrip(".")[-1].isalnum()
    assert describe_loss(name) == told


def test_a_class_from_outside_is_described_too():
    told = describe_loss("keras.losses:Circle")
    assert told.parameters["margin"] == 0.4
    assert "Circle Loss" in told.summary


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN.*Did you mean 'circle'"):
        describe_loss("circel")


def test_listing_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys\nfrom anchorage_pipeline.cli import main\nmain(['losses']), main(['losses', 'triplet'])\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
