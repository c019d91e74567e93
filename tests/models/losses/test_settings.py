"""The settings that `test_contract.py` tries take every choice of every loss, and every part that losses share."""

import inspect
import json
import re
from pathlib import Path

import pytest

from anchorage.losses import LOSSES, create_loss
from anchorage.mining import MINERS
from anchorage.pairs.reducers import ANCHOR_REDUCERS
from anchorage.regularizers import REGULARIZERS

MORE_SETTINGS = json.loads((Path(__file__).parents[2] / "data" / "loss_settings.json").read_text())


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_choice_of_a_loss_is_tried(name):
    settings = [{}, *MORE_SETTINGS.get(name, ())]
    for parameter, default in inspect.signature(LOSSES[name]).parameters.items():
        if isinstance(default.default, bool):
            assert {params.get(parameter, default.default) for params in settings} == {True, False}, parameter
        if not isinstance(default.default, str):
            continue
        with pytest.raises(ValueError, match=rf"`{parameter}` must be .*Received: {parameter}='nonsense'") as caught:
            create_loss(name, {parameter: "nonsense"}, num_classes=4)
        choices = set(re.findall(r"'(\w+)'", str(caught.value).split("Received")[0]))
        if parameter not in ("reducer", "distance"):  # code that the losses share: once over the table, below
            assert choices <= {params.get(parameter, default.default) for params in settings}, parameter


def test_every_shared_part_is_tried_with_some_loss():
    whole = json.dumps(MORE_SETTINGS)
    for name in (
        *ANCHOR_REDUCERS,
        *MINERS,
        *REGULARIZERS,
        "cosine",
        "dot",
        "euclidean",
        "manhattan",
        "snr",
        "squared_euclidean",
    ):
        # What is a default somewhere need not be written.
        assert f'"{name}"' in whole or name in ("mean", "lp", "euclidean"), name
