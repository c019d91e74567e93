from functools import partial

import keras
import pytest

from anchorage.errors import UsageError
from anchorage.losses import LOSSES, create_loss
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.registry import create


def test_params_reach_the_constructor():
    assert create_loss("contrastive", {"neg_margin": 0.3}, num_classes=7).neg_margin == 0.3


def test_facts_reach_those_who_ask_and_params_win():
    assert create_loss("multi_proxy_anchor", num_classes=7, embedding_size=3).num_classes == 7
    assert create_loss("multi_proxy_anchor", {"num_classes": 9}, num_classes=7).num_classes == 9


def test_class_from_another_module():
    assert isinstance(create_loss("anchorage.losses.contrastive:ContrastiveLoss"), ContrastiveLoss)


def test_misspelt_parameter_is_refused():
    with pytest.raises(UsageError, match=r"'contrastive' takes \['distance', .*\]. Received unknown: \['margn'\]"):
        create_loss("contrastive", {"margn": 0.3})


def test_parameters_of_a_constructor_that_is_inherited():
    class Renamed(ContrastiveLoss):
        pass

    expected = {"pos_margin": 0.2, "neg_margin": 0.25}
    for made in (Renamed, partial(Renamed, reducer="mean")):
        assert create({"renamed": made}, "renamed", expected).get_config().items() >= expected.items()


def test_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(UsageError, match=f"Known: .*{sorted(LOSSES)[0]}.*Did you mean 'contrastive'"):
        create_loss("contrastiv")


def test_missing_parameter_is_named():
    with pytest.raises(UsageError, match=r"'multi_proxy_anchor' needs \['num_classes'\]"):
        create_loss("multi_proxy_anchor")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_such_module:Loss", "importable class"),
        ("anchorage.losses.contrastive:NoSuchLoss", "importable class"),
        ("anchorage.pairs.masks:check_batch", "subclass of keras"),
        ("anchorage.errors:UsageError", "subclass of keras"),
        (":Loss", "importable class"),
    ],
)
def test_what_is_not_a_layer_is_refused(name, text):
    with pytest.raises(UsageError, match=text) as caught:
        create_loss(name)
    assert caught.value.code == "E_NAME_UNKNOWN"


def test_wrong_value_stays_a_value_error():
    with pytest.raises(ValueError, match=r"`power` must be 1 or 2. Received: power=3"):
        create_loss("contrastive", {"power": 3})


def test_any_table_of_classes():
    assert create({"dense": keras.layers.Dense}, "dense", {"units": 3}).units == 3
