"""What counts as the code of each node, on this project's own source."""

import shutil
from pathlib import Path

import pytest

from anchorage.training.recipes import LOSSES, METHODS
from anchorage_pipeline import fingerprint
from anchorage_pipeline.fingerprint import code_version, reached_modules, training_modules

_ROOT = Path(__file__).parents[2]
_PACKAGES = {"anchorage": "models", "anchorage_components": "components", "anchorage_pipeline": "pipeline"}
_GROUND = ("data", "disk", "errors", "extras", "files", "progress", "storage")
_DATA = {"anchorage", *(f"anchorage.{name}" for name in _GROUND)}
_RELEASED = _DATA | {"anchorage.release", "anchorage.retrieval"}
# Packages, and modules right below `models`, that may be part of a node's key.
_MAY_REACH = {
    "image_example_gen": _DATA,
    "audit_examples": _DATA,
    "vector_example_gen": _DATA,
    "pack_examples": _DATA,
    "embed_examples": _RELEASED,
    "build_index": _RELEASED,
    "identify_run": _RELEASED | {"anchorage.items", "anchorage.judging"},
    "find_release": _RELEASED - {"anchorage.data", "anchorage.retrieval"},
    "evaluate_retrieval": _RELEASED
    | {
        f"anchorage.{name}"
        for name in ("arguments", "judging", "registry", "reporting", "tuning", "untrained", "user_code", "vectors")
    },
    "publish_release": _RELEASED,
}
_SHARED = {
    "anchorage_components",
    "anchorage_components.artifacts",
    "anchorage_components.beam",
    "anchorage_components.beam.files",
    "anchorage_components.beam.jobs",
    "anchorage_components.beam.embedding",
    "anchorage_components.beam.indexing",
    "anchorage_components.beam.options",
    "anchorage_components.beam.running",
    "anchorage_components.nodes",
    "anchorage_components.object_store",
    "anchorage_components.parameters",
}
_SETTINGS = {"loss": {"name": "margin", "params": {}}, "training": {"methods": [{"name": "moving_average"}]}}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the source in place of the source, and a way to append a comment to one of its files."""
    for package, folder in _PACKAGES.items():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_ROOT / folder / package, tmp_path / folder / package, ignore=ignored)
    monkeypatch.setattr(fingerprint, "_package", lambda package: tmp_path / _PACKAGES[package] / package)

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
    nodes = {node: code_version(f"anchorage_components.{node}") for node in _MAY_REACH}
    modules, tables = training_modules(_SETTINGS, "anchorage_components.trainer")
    return {**nodes, "trainer": code_version(*modules, tables=tables)}


def _changed(comment, name):
    before = _keys()
    comment(name)
    after = _keys()
    return {node for node in before if before[node] != after[node]}


@pytest.mark.parametrize("node", _MAY_REACH)
def test_a_nodes_key_counts_only_the_packages_it_works_with(node):
    reached = reached_modules(f"anchorage_components.{node}")
    models = {name for name in reached if name.partition(".")[0] == "anchorage"}
    assert {".".join(name.split(".")[:2]) for name in models} <= _MAY_REACH[node]
    assert reached - models <= _SHARED | {f"anchorage_components.{node}"}


@pytest.mark.parametrize(
    ("file", "nodes"),
    [
        ("models/anchorage/losses/margin.py", {"trainer"}),
        ("models/anchorage/losses/circle.py", set()),
        ("models/anchorage/methods/proxy_synthesis.py", set()),
        ("components/anchorage_components/image_example_gen.py", {"image_example_gen"}),
        ("components/anchorage_components/evaluate_retrieval.py", {"evaluate_retrieval"}),
        ("models/anchorage/reporting/page/report.html.j2", {"evaluate_retrieval"}),
        ("pipeline/anchorage_pipeline/commands/run.py", set()),
    ],
)
def test_an_edit_renews_the_nodes_that_run_the_file_and_no_others(copied, file, nodes):
    assert _changed(copied, file) == nodes


def test_the_packers_code_is_part_of_its_key(copied):
    assert "pack_examples" in _changed(copied, "models/anchorage/data/store.py")


@pytest.mark.parametrize(
    "settings",
    [
        {
            "loss": {"name": "proxy_anchor", "params": {}},
            "training": {"methods": []},
        },  # sets parameters of another
        {"loss": {"name": "my_loss:Mine", "params": {}}, "training": {"methods": []}},  # may be any Keras loss
        {"loss": {"name": "no_such_file", "params": {}}, "training": {"methods": []}},
    ],
)
def test_a_training_that_may_use_any_loss_counts_all_of_them(settings):
    modules, tables = training_modules(settings, "anchorage_components.trainer")
    assert tables == []
    assert {"anchorage.losses.margin", "anchorage.losses.circle"} <= reached_modules(*modules)
    assert ("my_loss" in modules) == ("my_loss" in str(settings))


@pytest.mark.parametrize(
    ("loss", "inside"),
    [
        ({"name": "ensemble", "params": {}}, {"softmax", "triplet", "proxy_nca"}),
        ({"name": "mined", "params": {}}, {"contrastive"}),
        ({"name": "mined", "params": {"loss": {"name": "circle"}}}, {"circle", "contrastive"}),
    ],
)
def test_losses_inside_a_combined_loss_count_and_others_do_not(loss, inside):
    modules, tables = training_modules({"loss": loss, "training": {"methods": []}}, "anchorage_components.trainer")
    reached = reached_modules(*modules, tables=tables)
    assert {name for name in reached if name.startswith("anchorage.losses.")} - {
        "anchorage.losses._parts",
        "anchorage.losses.base",
    } == {f"anchorage.losses.{name}" for name in {loss["name"], *inside}}


def test_miners_count_where_a_loss_takes_one():
    loss = {"name": "cross_batch_memory", "params": {"miner": {"name": "multi_similarity"}}}
    modules, tables = training_modules({"loss": loss, "training": {"methods": []}}, "anchorage_components.trainer")
    assert "anchorage.mining.miners" in reached_modules(*modules, tables=tables)


def test_all_that_a_recipe_may_choose_counts():
    modules, tables = training_modules({"loss": None, "training": {"methods": None}}, "anchorage_components.trainer")
    reached = reached_modules(*modules, tables=tables)
    assert {f"anchorage.losses.{name}" for name in LOSSES} | {
        f"anchorage.methods.{name}" for name in METHODS
    } <= reached


def test_how_a_loss_is_made_counts_and_which_others_there_are_does_not(copied, tmp_path):
    modules, tables = training_modules(_SETTINGS, "anchorage_components.trainer")
    assert tables == ["anchorage.losses", "anchorage.methods"]
    table = tmp_path / "models/anchorage/losses/__init__.py"
    text, versions = table.read_text(encoding="utf-8"), []
    for old, new in [("", ""), ("import keras\n", "import keras\n\n_NEW = {}\n"), ("return create(", "return make(")]:
        assert old in text
        table.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        fingerprint._definitions.cache_clear()
        versions.append(code_version(*modules, tables=tables))
    assert versions[0] == versions[1] != versions[2]
