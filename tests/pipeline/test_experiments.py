"""Every experiment file that comes with the project: it can be read, says what it is, and its parts can be made."""

from pathlib import Path

import pytest

from anchorage_pipeline.config import load_experiment
from anchorage_pipeline.preflight import check_parts

FOLDER = Path(__file__).parents[2] / "pipeline/experiments"
FILES = sorted(path for path in FOLDER.glob("*.toml") if not path.name.startswith("compare-"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_can_be_read_and_says_what_it_is(path):
    assert load_experiment(path).name == path.stem
    assert path.read_text(encoding="utf-8").startswith("#:schema experiment.schema.json\n# ")


@pytest.mark.thorough
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_parts_can_be_made(path):
    check_parts(load_experiment(path))
