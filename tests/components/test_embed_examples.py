"""EmbedExamples: every record once with its own vector, and nothing when there is nothing to compare with."""

import json
import shutil
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from tfx.types.standard_artifacts import Examples, Model

from anchorage.data.examples import COUNTS, Example, list_shards, read_counts, read_rejects, write_shard
from anchorage.errors import DataError
from anchorage.release import fingerprint_model, publish_release
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.table import read_table
from anchorage_components.artifacts import BaselineRelease, EmbeddingTable, read_table_facts
from anchorage_components.embed_examples import EmbedExamples
from anchorage_components.image_example_gen import ImageExampleGen

ROWS = {
    **{f"a/{n}.png": ("apple", "train", "both") for n in range(6)},
    **{f"ü b/{n}.png": ("Birne ü", "val", "both") for n in range(3)},
    "c/1.png": ("cherry", "test", "query"),
    "c/2.png": ("cherry", "test", "gallery"),
    "d/1.png": ("date", "test", "both"),
}


def artifact(kind, folder):
    found = kind()
    found.uri = str(folder)
    return found


@pytest.fixture(scope="module")
def images(picture):
    return {path: picture(number) for number, path in enumerate(ROWS)}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory, images):
    """Folder of ingested images, in shards of four."""
    root = tmp_path_factory.mktemp("ingested")
    for path, data in images.items():
        (root / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / path).write_bytes(data)
    lines = [",".join((path, *fields)) for path, fields in ROWS.items()]
    (root / "table.csv").write_text("\n".join(["path,label,split,role", *lines]))
    settings = {"root": str(root / "data"), "table": str(root / "table.csv"), "beam_pipeline": beam.Pipeline()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorage_components.image_example_gen._SHARD_IMAGES", 4)
        ImageExampleGen.test_call(examples=artifact(Examples, root / "examples"), **settings)
    return root / "examples"


@pytest.fixture
def examples(tmp_path, ingested):
    """The ingested images, free to be damaged."""
    shutil.copytree(ingested, tmp_path / "examples")
    return artifact(Examples, tmp_path / "examples")


@pytest.fixture
def model(tmp_path, export_encoder):
    found = artifact(Model, tmp_path / "model")
    export_encoder(0, tmp_path / "model/Format-Serving")
    return found


def embed(tmp_path, examples, splits=("val", "test"), **inputs):
    table = artifact(EmbeddingTable, tmp_path / "embeddings")
    settings = {"splits_json": json.dumps(splits), "beam_pipeline": beam.Pipeline()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorage_components.beam.embedding._BATCH", 4)
        EmbedExamples.test_call(examples=examples, embeddings=table, **inputs, **settings)
    return table


def test_every_record_of_the_splits_once(tmp_path, examples, model, images, embed_exactly):
    table = embed(tmp_path, examples, model=model)
    found = read_table(table.uri)
    expected = {path: fields for path, fields in ROWS.items() if fields[1] != "train"}
    rows = {i: (la, s, r) for i, la, s, r in zip(found.ids, found.labels, found.splits, found.roles, strict=True)}
    assert rows == expected
    np.testing.assert_allclose(found.vectors, embed_exactly([images[path] for path in found.ids]), atol=1e-6)
    assert read_table_facts(table.uri) == {
        "model_fingerprint": fingerprint_model(tmp_path / "model/Format-Serving"),
        "dimension": 5,
        "counts": {"test": 3, "val": 3},
        "rejects": 0,
    }
    assert read_rejects(table.uri) == []


def test_without_a_baseline_the_table_is_empty_and_marked_so(tmp_path, examples):
    baseline = artifact(BaselineRelease, tmp_path / "baseline")
    (tmp_path / "baseline").mkdir()
    facts = {"version": None, "path": "", "reason": "no release was published yet"}
    (tmp_path / "baseline/baseline.json").write_text(json.dumps(facts))
    table = embed(tmp_path, examples, ["test"], baseline=baseline)
    assert [path.name for path in Path(table.uri).iterdir()] == ["none.json"]
    assert json.loads((Path(table.uri) / "none.json").read_text()) == {"reason": facts["reason"]}
    assert read_table_facts(table.uri) is None


@pytest.fixture
def baseline(tmp_path, export_encoder):
    """A release of another encoder, as FindRelease names it."""
    folder = export_encoder(1, tmp_path / "older")
    fingerprint = fingerprint_model(folder)
    save_index(build_index(np.eye(5, dtype="float32")), tmp_path / "index", model_fingerprint=fingerprint)
    publish_release(
        tmp_path / "releases",
        model_folder=folder,
        index_folder=tmp_path / "index",
        files={"gallery.parquet": b"the gallery"},
        facts={},
    )
    found = artifact(BaselineRelease, tmp_path / "baseline")
    (tmp_path / "baseline").mkdir()
    facts = {"version": 1, "path": str(tmp_path / "releases/1"), "reason": "the current release"}
    (tmp_path / "baseline/baseline.json").write_text(json.dumps(facts))
    return found


def test_baseline_embeds_with_the_release(tmp_path, examples, baseline, images, embed_exactly):
    theirs = read_table(embed(tmp_path, examples, ["test"], baseline=baseline).uri)
    assert sorted(theirs.ids) == sorted(path for path, fields in ROWS.items() if fields[1] == "test")
    ours = embed_exactly([images[path] for path in theirs.ids])
    assert np.abs(theirs.vectors - ours).max() > 0.1
    facts = read_table_facts(tmp_path / "embeddings")
    assert facts["model_fingerprint"] == fingerprint_model(tmp_path / "older")


def test_damaged_baseline_is_not_loaded(tmp_path, examples, baseline):
    path = tmp_path / "releases/1/saved_model.pb"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="E_RELEASE_DAMAGED"):
        embed(tmp_path, examples, ["test"], baseline=baseline)


def test_either_model_or_baseline(tmp_path, examples, model, baseline):
    for inputs in ({}, {"model": model, "baseline": baseline}):
        with pytest.raises(ValueError, match="either `model` or `baseline`"):
            embed(tmp_path, examples, **inputs)


def test_split_without_images(tmp_path, examples, model):
    with pytest.raises(DataError, match=r"E_SPLIT_EMPTY: .* 'probe'. Received: none; nothing was rejected"):
        embed(tmp_path, examples, ["test", "probe"], model=model)


def test_damaged_shard_stops_the_run_under_its_own_name(tmp_path, examples, model):
    path = Path(examples.uri) / list_shards(examples.uri, "test")[0].file
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"E_SHARD_\w+: .*Split-test") as caught:
        embed(tmp_path, examples, model=model)
    assert caught.value.code in {"E_SHARD_TRUNCATED", "E_SHARD_DAMAGED"}
    assert not (tmp_path / "embeddings/table.json").exists()


def replant(examples, split, images):
    """Replace the shards of a split by one shard of these images, with true counts."""
    shard = write_shard(examples.uri, f"Split-{split}/other.gz", images)
    counts = read_counts(examples.uri)
    counts["splits"][split]["shards"] = [shard._asdict()]
    (Path(examples.uri) / COUNTS).write_text(json.dumps(counts))


def test_bad_image_past_ingest_goes_to_the_dead_letters(tmp_path, examples, model, picture):
    good = [Example(f"good/{n}", "g", "both", picture(n)) for n in range(5)]
    replant(examples, "test", [*good, Example("bad/1", "b", "both", picture(9, "JPEG")[:-200])])
    table = embed(tmp_path, examples, ["test"], model=model)
    assert read_table(table.uri).ids.tolist() == [image.id for image in good]
    (reject,) = read_rejects(table.uri)
    assert (reject.id, reject.code, reject.split) == ("bad/1", "E_IMAGE_TRUNCATED", "test")
    assert read_table_facts(table.uri)["rejects"] == 1


def test_attributes_become_columns(tmp_path, examples, model, picture):
    family = [(("family", "lucide"), ("style", "line")), (("style", "flat"),), ()]
    images = [Example(f"{n}", "g", "both", picture(n), kept) for n, kept in enumerate(family)]
    replant(examples, "test", images)
    table = read_table(embed(tmp_path, examples, ["test"], model=model, attributes_json='["family"]').uri)
    assert {name: values.tolist() for name, values in table.columns.items()} == {"family": ["lucide", "", ""]}
    assert read_table(embed(tmp_path / "plain", examples, ["test"], model=model).uri).columns == {}


def test_too_many_bad_images_stop_the_run(tmp_path, examples, model, picture):
    bad = [Example(f"bad/{n}", "b", "both", b"") for n in range(11)]
    replant(examples, "test", [Example("good", "g", "both", picture(1)), *bad])
    with pytest.raises(DataError, match=r"E_TOO_MANY_REJECTS: Expected at most 10 .* Received: 11 E_IMAGE_EMPTY"):
        embed(tmp_path, examples, ["test"], model=model)


def test_rejects_an_image_that_comes_twice(tmp_path, examples, model, picture):
    replant(examples, "test", [Example("twin", "g", "both", picture(1))] * 2)
    table = embed(tmp_path, examples, ["test"], model=model)
    with pytest.raises(DataError, match=r"E_ID_DUPLICATE: .*\['twin'\]"):
        read_table(table.uri)


def test_rejects_a_table_that_lacks_a_record(tmp_path, examples, model, monkeypatch):
    def all_but_one(uri, shard):
        from anchorage.data.examples import read_examples

        return list(read_examples(uri, shard))[1:]

    monkeypatch.setattr("anchorage_components.embed_examples.read_examples", all_but_one)
    with pytest.raises(DataError, match=r"E_EMBEDDINGS_INCOMPLETE: Expected 3 .* Received: 2 and 0"):
        embed(tmp_path, examples, ["test"], model=model)
