"""The published table of the losses lists what the code has."""

import runpy
from pathlib import Path

import pytest

from models.losses import LOSSES, describe_losses

TABLE = runpy.run_path(str(Path(__file__).with_name("table.py")))
FACTS = {
    "tests": 1234,
    "versions": {"keras": "3.15.1"},
    "losses": {name: {"cases": 2, "float64": 3.2e-16, "float32": 1.4e-7} for name in LOSSES},
}


def test_published_page_lists_all_losses_with_their_parameters():
    rows = [line for line in TABLE["PAGE"].read_text(encoding="utf-8").splitlines() if line.startswith("| [`")]
    assert len(rows) == len(LOSSES)
    for row, loss in zip(rows, describe_losses(), strict=True):
        assert row.startswith(TABLE["front_of"](loss)), "run `make conformance`: the published table is out of date"


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_docstring_says_purpose_formula_and_origin_of_the_defaults(name):
    purpose, text, origin = TABLE["parts_of"](name)
    assert purpose.endswith(".")
    assert "\n    " in text or name in ("mined", "self_supervised")  # these say what another loss sees
    assert origin.endswith(".")


def test_page_shows_figures_versions_and_formulas():
    page = TABLE["render"]({"tensorflow": FACTS, "jax": FACTS})
    assert "Versions: keras 3.15.1." in page
    assert "TensorFlow 1,234 tests, JAX 1,234 tests" in page
    row = next(line for line in page.splitlines() if line.startswith("| [`contrastive`]"))
    assert row.endswith("| 2 | 3e-16, 1e-07 | 3e-16, 1e-07 |")
    assert "`neg_margin=1.0`" in row
    assert "Hadsell" in row
    formula = page.split("### contrastive\n")[1].split("###")[0]
    assert "max(0, d_ij - pos_margin)" in formula
    assert "Defaults:" not in formula
