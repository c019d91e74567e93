"""The published table of the losses agrees with the code."""

import runpy
from pathlib import Path

import pytest

from anchorage.losses import LOSSES

TABLE = runpy.run_path(str(Path(__file__).with_name("table.py")))
FACTS = {
    "tests": 1234,
    "versions": {"keras": "3.15.1"},
    "losses": {name: {"cases": 2, "float64": 3.2e-16, "float32": 1.4e-7} for name in LOSSES},
}


def test_published_page_says_of_every_loss_what_the_code_says():
    """Paper, parameters, origin of the defaults, purpose and formula, in the order of the table."""
    page = TABLE["PAGE"].read_text(encoding="utf-8")
    expected = "the published table is out of date: run `python tests/models/losses/table.py --text`"
    assert [line for line in page.splitlines() if line.startswith("### ")] == [f"### {name}" for name in sorted(LOSSES)]
    for was, now in zip(page.splitlines(), TABLE["refresh"](page).splitlines(), strict=True):
        assert was == now, expected


def test_refreshed_page_keeps_its_figures_and_takes_the_words_from_the_code():
    page = TABLE["render"]({"tensorflow": FACTS, "jax": FACTS})
    assert TABLE["refresh"](page) == page
    stale = page.replace("max(0, d_ij - pos_margin)", "old").replace("neg_margin=1.0", "neg_margin=7.0")
    stale = stale.replace(f"| {TABLE['parts_of']('contrastive')[2]} |", "| nobody knows |")
    assert "nobody knows" in stale
    assert TABLE["refresh"](stale) == page


def test_a_loss_without_figures_is_named():
    page = TABLE["render"]({"tensorflow": FACTS})
    with pytest.raises(SystemExit, match=r"no figures of \['circle'\]. Run `make conformance`"):
        TABLE["refresh"]("".join(line for line in page.splitlines(True) if not line.startswith("| [`circle`")))


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
