"""`anchorage export` with a stand-in for the conversion, which tests/models/serving/test_conversion.py tries."""

import json
from types import SimpleNamespace

import pyarrow.parquet as parquet
import pytest
from vector_releases import publish_vectors, unit_vectors

import anchorage.release
from anchorage.errors import GateError
from anchorage.items import Item
from anchorage.release.items import ItemStore, default_store
from anchorage.serving import conversion
from anchorage.serving.runtimes import RUNTIMES
from anchorage_pipeline import startup
from anchorage_pipeline.cli import create_parser, main

DOCUMENT = {
    "file": "model.onnx",
    "input": {"name": "images", "shape": [None, 96, 96, 3], "dtype": "uint8"},
    "comparison": {"difference": 2.4e-7, "limit": 1e-4, "records": "images of the gallery"},
}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the conversion was asked for."""
    calls = []
    monkeypatch.chdir(tmp_path)
    release = SimpleNamespace(path=tmp_path / "releases" / "icons" / "3", name="icons", version=3)
    monkeypatch.setattr(anchorage.release, "open_release", lambda path: release)
    monkeypatch.setattr(startup, "load_keras", lambda: None)
    monkeypatch.setattr(conversion, "convert_release", lambda *arguments: calls.append(arguments) or DOCUMENT)
    return calls


def test_the_folder_is_named_by_release_version_and_runtime(asked, tmp_path, capsys):
    assert main(["export", "model", "releases/icons", "--to", "onnx"]) == 0
    assert asked[0][1:] == ("onnx", tmp_path / "icons-3-onnx")
    assert capsys.readouterr().out.splitlines() == [
        "export   icons-3-onnx/model.onnx, described in export.json beside it",
        "input    images: (N, 96, 96, 3) uint8",
        "compared with the SavedModel of release 3: largest difference 2.4e-07, limit 0.0001, on images of the gallery",
    ]


@pytest.mark.parametrize("place", [1, 2, 5])
def test_json_may_stand_before_and_after_the_part(asked, tmp_path, capsys, place):
    words = ["export", "model", "releases/icons", "--to", "openvino", "--output", "there"]
    assert main([*words[:place], "--json", *words[place:]]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "there"), **DOCUMENT}


def test_a_refusal_is_the_exit_status_of_the_gate(asked, monkeypatch, capsys):
    def refuse(*arguments):
        raise GateError("E_EXPORT_DIFFERS", "Expected equal embeddings.")

    monkeypatch.setattr(conversion, "convert_release", refuse)
    assert main(["export", "model", "releases/icons", "--to", "litert"]) == 5
    assert capsys.readouterr().err == "anchorage: E_EXPORT_DIFFERS: Expected equal embeddings.\n"


def test_the_parser_knows_the_runtimes():
    verb = create_parser("export")._subparsers._group_actions[0].choices["export"]
    model = verb._subparsers._group_actions[0].choices["model"]
    assert [action.choices for action in model._actions if action.dest == "to"] == [(*RUNTIMES, "triton", "scann")]


def test_vectors_go_to_a_folder_with_the_items_added_since(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    vectors = unit_vectors(30)
    release = publish_vectors(tmp_path, vectors)
    store = ItemStore(default_store(release.path.parent))
    store.write([
        Item("new", "x", {"size": "big"}, vectors[0], fingerprint=release.model_fingerprint),
        Item("of another model", vector=vectors[0], fingerprint="other"),
    ])  # fmt: skip
    assert main(["export", "vectors", "releases", "--to", "parquet"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output == [
        "vectors  0 of 31",
        "vectors  31 of 31",
        "export   31 items of release 1 to releases-1-parquet",
        "left out 1 items whose vectors another model made: ['of another model']",
    ]
    table = parquet.read_table(tmp_path / "releases-1-parquet")
    assert table.column_names == ["id", "label", "color", "size", "vector"]
    assert table.num_rows == 31
    assert main(["export", "vectors", "releases", "--to", "parquet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "output": "releases-1-parquet", "rows": 31, "before": 31, "left_out": ["of another model"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "lancedb"])
def test_a_full_disk_is_named_by_the_place_of_the_export(tmp_path, monkeypatch, capsys, kind):
    publish_vectors(tmp_path, unit_vectors(30))

    def fail(*arguments):
        raise RuntimeError("lance error: No space left on device (os error 28)")

    monkeypatch.setattr("anchorage.serving.vector_export.export_vectors", fail)
    output = tmp_path / "there"
    assert main(["export", "vectors", str(tmp_path / "releases"), "--to", kind, "--output", str(output)]) == 4
    assert f"E_DISK_FULL: Expected free space to continue writing in {output}" in capsys.readouterr().err


def test_vectors_for_pgvector_need_a_database(capsys):
    assert main(["export", "vectors", "releases", "--to", "pgvector"]) == 2
    assert "E_STORE_URL" in capsys.readouterr().err
