"""What the check by annotations takes and refuses, and that all building blocks made by name go through it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from anchorage.arguments import check_arguments
from anchorage.data.sampling import SAMPLERS
from anchorage.errors import UsageError
from anchorage.losses import create_loss
from anchorage.methods import create_methods
from anchorage.registry import constructor_signature, create


class Part:
    def __init__(
        self,
        rate: float = 1.0,
        limit: float = math.inf,
        wrong: int = None,  # noqa: RUF013 - as in code of others
        rates: float | Sequence[float] = 1.0,
        names: Sequence[str] | None = None,
        spec: str | Mapping[str, Any] = "a",
        plain=None,
    ):
        pass


def check(**arguments):
    check_arguments(constructor_signature(Part).parameters, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rate": 3},
        {"rate": np.float32(0.5)},
        {"limit": math.inf},
        {"wrong": 1.5},  # its own default is no integer: the annotation says little
        {"rates": [1, 2.5]},
        {"rates": np.array([1.0, 2.0])},
        {"names": ("a", "b")},
        {"names": None},
        {"spec": {"name": "b"}},
        {"spec": 3},  # the constructor can say more
        {"plain": math.nan},
    ],
)
def test_what_fits_passes(arguments):
    check(**arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"rate": math.nan}, "`rate` must be a finite number. Received: rate=nan"),
        ({"rate": True}, "`rate` must be a finite number. Received: rate=True"),
        ({"rates": [1.0, math.inf]}, "`rates` must be a finite number or a list, each entry a finite number. Received"),
        (
            {"rates": "12"},
            "`rates` must be a finite number or a list, each entry a finite number. Received: rates='12'",
        ),
        ({"names": "ab"}, "`names` must be a list, each entry a string or None. Received: names='ab'"),
        ({"names": [1]}, "`names` must be a list, each entry a string or None. Received"),
    ],
)
def test_rejects_what_does_not_fit(arguments, text):
    with pytest.raises(ValueError, match=f"^{text}".replace(".", r"\.")):
        check(**arguments)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: create_loss("mined", {"miner": {"name": "angular", "params": {"angle": math.nan}}}),
            "'angular': `angle` must be a finite number. Received: angle=nan",
        ),
        (
            lambda: create_methods([{"name": "moving_average", "params": {"momentum": "0.9"}}]),
            "'moving_average': `momentum` must be a finite number. Received: momentum='0.9'",
        ),
        (
            lambda: create(SAMPLERS, "class_batches", {"classes": 2.5, "per_class": 2}, {"labels": [0, 1], "seed": 0}),
            "'class_batches': `classes` must be an integer. Received: classes=2.5",
        ),
        (lambda: create_loss("contrastive", [0.1]), "Expected parameters of 'contrastive' by name. Received"),
    ],
    ids=["miner", "method", "sampler", "list"],
)
def test_building_blocks_made_by_name_are_checked(make, text):
    with pytest.raises(UsageError, match=f"^E_PARAMETER_VALUE: {text}".replace(".", r"\.").replace("[", r"\[")):
        make()
