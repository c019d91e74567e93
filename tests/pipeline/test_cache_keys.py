"""What counts as the code of each node, on this project's own source."""

import shutil
from pathlib import Path

import pytest

from models.training.recipes import LOSSES, METHODS
from pipeline import fingerprint
from pipeline.fingerprint import code_version, reached_modules, training_modules

_ROOT = Path(fingerprint.__file__).parents[1]
_DATA = {"models", "models.data", "models.disk", "models.errors"}
_RELEASED = _DATA | {"models.files", "models.release", "models.retrieval"}
# Packages, and modules right below `models`, that may be part of a node's key.
_MAY_REACH = {
    "ingest": _DATA,
    "audit_examples": _DATA,
    "pack_examples": _DATA | {"models.files"},
    "embed_examples": _RELEASED,
    "build_index": _RELEASED,
    "find_release": _RELEASED - {"models.data", "models.retrieval"},
    "evaluate_retrieval": _RELEASED
    | {f"models.{name}" for name in ("arguments", "registry", "reporting", "untrained", "user_code")},
    "publish_release": _RELEASED - {"models.data"},
}
_SHARED = {"components", "components.artifacts", "components.jobs", "components.embedding"}
_SETTINGS = {"loss": {"name": "margin", "params": {}}, "training": {"methods": [{"name": "moving_average"}]}}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the source in place of the source, and a way to append a comment to one of its files."""
    for package in ("models", "components", "pipeline"):
        shutil.copytree(_ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "measured"))
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "pipeline/fingerprint.py"))

    def forget():
        for cached in (fingerprint._imports, fingerprint._file, fingerprint._definitions):
            cached.cache_clear()

    def comment(name):
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write("# a comment\n")

    forget()
    yield comment
    forget()


def _keys():
    nodes = {node: code_version(f"components.{node}") for node in _MAY_REACH}
    modules, tables = training_modules(_SETTINGS, "components.trainer")
    return {**nodes, "trainer": code_version(*modules, tables=tables)}


def _changed(comment, name):
    before = _keys()
    comment(name)
    after = _keys()
    return {node for node in before if before[node] != after[node]}


@pytest.mark.parametrize("node", _MAY_REACH)
def test_a_nodes_key_counts_only_the_packages_it_works_with(node):
    reached = reached_modules(f"components.{node}")
    assert {".".join(name.split(".")[:2]) for name in reached if name.startswith("models")} <= _MAY_REACH[node]
    assert {name for name in reached if not name.startswith("models")} <= _SHARED | {f"components.{node}"}


@pytest.mark.parametrize(
    ("file", "nodes"),
    [
        ("models/losses/margin.py", {"trainer"}),
        ("models/losses/circle.py", set()),
        ("models/methods/proxy_synthesis.py", set()),
        ("components/ingest.py", {"ingest"}),
        ("components/evaluate_retrieval.py", {"evaluate_retrieval"}),
        ("models/reporting/page/report.html.j2", {"evaluate_retrieval"}),
        ("pipeline/cli.py", set()),
    ],
)
def test_an_edit_renews_the_nodes_that_run_the_file_and_no_others(copied, file, nodes):
    assert _changed(copied, file) == nodes


def test_the_packers_code_is_part_of_its_key(copied):
    assert "pack_examples" in _changed(copied, "models/data/store.py")


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": {"name": "ensemble", "params": {}}, "training": {"methods": []}},  # has members by default
        {"loss": {"name": "my_loss:Mine", "params": {}}, "training": {"methods": []}},  # may be any Keras loss
        {"loss": {"name": "no_such_file", "params": {}}, "training": {"methods": []}},
    ],
)
def test_a_training_that_may_use_any_loss_counts_all_of_them(settings):
    modules, tables = training_modules(settings, "components.trainer")
    assert tables == []
    assert {"models.losses.margin", "models.losses.circle"} <= reached_modules(*modules)
    assert ("my_loss" in modules) == ("my_loss" in str(settings))


def test_all_that_a_recipe_may_choose_counts():
    modules, tables = training_modules({"loss": None, "training": {"methods": None}}, "components.trainer")
    reached = reached_modules(*modules, tables=tables)
    assert {f"models.losses.{name}" for name in LOSSES} | {f"models.methods.{name}" for name in METHODS} <= reached


def test_how_a_loss_is_made_counts_and_which_others_there_are_does_not(copied, tmp_path):
    modules, tables = training_modules(_SETTINGS, "components.trainer")
    assert tables == ["models.losses", "models.methods"]
    table = tmp_path / "models/losses/__init__.py"
    text, versions = table.read_text(encoding="utf-8"), []
    for old, new in [("", ""), ("import keras\n", "import keras\n\n_NEW = {}\n"), ("return create(", "return make(")]:
        assert old in text
        table.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        fingerprint._definitions.cache_clear()
        versions.append(code_version(*modules, tables=tables))
    assert versions[0] == versions[1] != versions[2]
