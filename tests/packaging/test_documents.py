"""The pages for readers agree with the project: links, versions, layers."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "models/README.md",
    "pipeline/recipes.md",
    "models/measured/README.md",
]


def _facts(folder):
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


VERSION = _facts("models")["project"]["version"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_named_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:models|components|pipeline|kubeflow|tests)/[\w./-]+)`", text)
    assert [path for path in paths if "my_loss" not in path and not (ROOT / path).exists()] == []


def test_three_packages_have_one_version():
    assert {_facts(folder)["project"]["version"] for folder in ("components", "pipeline")} == {VERSION}


def test_changelog_and_citation_have_the_version():
    assert re.findall(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0] == VERSION
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {VERSION}\n" in citation
    assert citation.count("\n  - type: ") == 20


def test_picture_of_the_layers_is_the_contract():
    contracts = _facts(".")["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["name"] == "layers inside anchorage")
    picture = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("[models: anchorage]")[1].split("```")[0]
    drawn = {name for box in re.findall(r"\[([a-z_, ]+)\]", picture) for name in box.split(", ")}
    drawn |= {name for name in ("procedures", "methods", "losses", "proxies", "pairs") if f"--> {name}" in picture}
    assert drawn | {"learner"} == {name for layer in layers for name in layer.split(" | ")}


def test_every_direct_dependency_has_a_row_in_the_readme():
    rows = re.findall(r"^\| ([\w, -]+) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name.strip() for row in rows for name in row.split(",")}
    asked = set()
    for folder in ("models", "components", "pipeline", "."):
        facts = _facts(folder)
        project = facts["project"]
        groups = [*project.get("optional-dependencies", {}).values(), *facts.get("dependency-groups", {}).values()]
        needs = [need for group in [project["dependencies"], *groups] for need in group if isinstance(need, str)]
        asked |= {re.match(r"[\w.-]+", need)[0] for need in needs}
    assert {name for name in asked if not name.startswith("anchorage")} - listed == set()
