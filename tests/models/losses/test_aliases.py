"""Names that losses go by elsewhere."""

import numpy as np
import pytest

from anchorage.catalogue import check_name, describe_loss, describe_losses
from anchorage.errors import UsageError
from anchorage.losses import ALIASES, LOSSES, create_loss, find_loss


@pytest.mark.parametrize(
    ("alias", "name", "params"),
    [
        ("proxy_anchor", "multi_proxy_anchor", {"proxies_per_class": 1}),
        ("info_nce", "nt_xent", {}),
        ("subcenter_arcface", "arcface", {"sub_centers": 3}),
        ("snr_contrastive", "contrastive", {"distance": "snr"}),
        ("large_margin_softmax", "sphereface", {"weight_lengths": True}),
    ],
)
def test_alias_is_the_loss_with_its_parameters(alias, name, params):
    x, labels = np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), np.arange(6) % 3
    ours, theirs = create_loss(alias, num_classes=3), create_loss(name, params, num_classes=3)
    assert type(ours) is type(theirs) is find_loss(alias) is LOSSES[name]
    differ = {key for key, value in theirs.get_config().items() if ours.get_config()[key] != value}
    assert differ <= {"name"}
    for loss in (ours, theirs):
        loss(x, labels)
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        one.assign(other)
    assert float(ours(x, labels)) == float(theirs(x, labels))
    check_name(alias)
    description = describe_loss(alias)
    assert description.name == alias
    assert description.parameters == describe_loss(name).parameters | params
    [listed] = [loss for loss in describe_losses() if loss.name == name]
    assert listed.aliases == {alias: params}


def test_what_the_user_writes_wins():
    assert create_loss("subcenter_arcface", {"sub_centers": 2}, num_classes=3).sub_centers == 2


def test_aliases_stand_beside_the_table_and_mistakes_are_rejected():
    assert not ALIASES.keys() & LOSSES.keys()
    assert {name for name, _ in ALIASES.values()} <= LOSSES.keys()
    with pytest.raises(UsageError, match=r"E_PARAMETER_UNKNOWN: 'nt_xent' takes"):
        create_loss("info_nce", {"tau": 1.0})
    with pytest.raises(UsageError, match=r"Unknown name 'proxy_anchr'.* Did you mean 'proxy_anchor'\?"):
        check_name("proxy_anchr")


def test_other_names_are_written_with_what_they_set():
    description = {loss.name: loss.also_known_as() for loss in describe_losses()}
    assert description["multi_proxy_anchor"] == "proxy_anchor (proxies_per_class=1)"
    assert description["nt_xent"] == "info_nce"
    assert description["triplet"] == ""
