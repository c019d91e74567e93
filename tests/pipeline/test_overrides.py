"""`--set`: values by type, paths into tables and lists, and what is refused."""

import pytest

from anchorage.errors import UsageError
from anchorage_pipeline.overrides import apply_overrides

FILE = {"seed": 1, "loss": {"name": "triplet", "params": {"margin": 0.1}}, "training": {"methods": [{"name": "a"}]}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.2", 0.2),
        ("3", 3),
        ("1e-4", 1e-4),
        ("true", True),
        ("arcface", "arcface"),
        ('"arcface"', "arcface"),
        ("my_loss:MyLoss", "my_loss:MyLoss"),
        ("photos/shop a.csv", "photos/shop a.csv"),
        ("", ""),
        ("[1, 2]", [1, 2]),
        ("{ low = 0.1, high = 0.5 }", {"low": 0.1, "high": 0.5}),
        ("a = b", "a = b"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_values_are_those_of_toml_and_anything_else_is_text(text, value):
    changed = apply_overrides(FILE, [f"loss.params.margin={text}"])
    assert changed["loss"]["params"] == {"margin": value}
    assert type(changed["loss"]["params"]["margin"]) is type(value)


def test_sets_several_values_and_leaves_the_file_alone():
    changed = apply_overrides(FILE, ["seed=2", "training.methods.0.params.weight = 5", "data.path=images", "seed=3"])
    assert changed == {
        "seed": 3,
        "loss": FILE["loss"],
        "training": {"methods": [{"name": "a", "params": {"weight": 5}}]},
        "data": {"path": "images"},
    }
    assert FILE["seed"] == 1
    assert FILE["training"]["methods"] == [{"name": "a"}]


def test_replaces_an_entry_of_a_list():
    assert apply_overrides(FILE, ["training.methods.0={ name = 'b' }"])["training"]["methods"] == [{"name": "b"}]


@pytest.mark.parametrize(
    "override",
    ["seed", "=1", "loss..name=a", ".seed=1", "seed.low=1", "training.methods.1.name=b", "training.methods.x=b"],
)
def test_refuses_what_leads_nowhere(override):
    with pytest.raises(UsageError, match=r"E_OVERRIDE.*Received: ") as caught:
        apply_overrides(FILE, [override])
    assert override in str(caught.value)
