"""The JSON Schema and the page of the experiment file: current, complete, and right about the files of the project."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from anchorage_pipeline.cli import main
from anchorage_pipeline.schema import experiment_schema, reference_page

PIPELINE = Path(__file__).parents[2] / "pipeline"
FILES = sorted(path for path in (PIPELINE / "experiments").glob("*.toml") if not path.name.startswith("compare-"))
LEAST = {"name": "toy", "data": {"path": "images"}}


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(experiment_schema())
    return jsonschema.Draft202012Validator(experiment_schema())


def test_the_files_are_current():
    stored = json.loads((PIPELINE / "experiments/experiment.schema.json").read_text(encoding="utf-8"))
    assert stored == experiment_schema(), "run `anchorage schema --output pipeline/experiments/experiment.schema.json`"
    page = (PIPELINE / "reference/experiment-file.md").read_text(encoding="utf-8")
    assert page == reference_page(), "run `anchorage schema --markdown --output pipeline/reference/experiment-file.md`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_is_valid(validator, path):
    validator.validate(tomllib.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "loss",
    [
        {"margin": 0.2},
        {"margin": {"low": 0.1, "high": 0.5}},
        {"margin": {"choices": [1, 2]}},
        {"parts": []},
        {"parts": [{"name": "contrastive", "params": {"neg_margin": {"low": 0.1, "high": 0.5}}}]},
    ],
)
def test_parameters_ranges_and_parts_are_valid(validator, loss):
    validator.validate({**LEAST, "loss": {"name": "margin", "params": loss}})


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {**LEAST, "sed": 1},
        {**LEAST, "data": {"path": "images", "val_share": 1.0}},
        {**LEAST, "data": {"path": "images", "fit": "stretch"}},
        {**LEAST, "training": {"epochs": None}},
        {**LEAST, "training": {"epochs": -1}},
        {**LEAST, "loss": "margin"},
    ],
)
def test_what_the_command_refuses_is_invalid(validator, wrong):
    assert not validator.is_valid(wrong)


def test_every_key_has_a_sentence():
    schema = experiment_schema()
    sections = {"": schema, **schema["$defs"]}
    keys = {f"{name}.{key}": value for name, at in sections.items() for key, value in at.get("properties", {}).items()}
    assert len(keys) > 70
    silent = [key for key, value in keys.items() if not value.get("description", "").endswith(".")]
    assert silent == []


def test_the_command_prints_or_writes_it(tmp_path, capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == experiment_schema()
    assert main(["schema", "--markdown", "--output", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == reference_page()
    assert capsys.readouterr().out == ""
