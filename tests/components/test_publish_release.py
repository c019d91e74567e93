"""PublishRelease, with a model that EvaluateRetrieval judged."""

import json
from pathlib import Path

import pytest
from evaluation import CLASSES, assert_blessed, table_of
from tfx.types.standard_artifacts import ModelBlessing

from anchorage.errors import DataError, GateError
from anchorage.release import current_version, open_release
from anchorage.retrieval.table import write_table
from anchorage.serving.searcher import Searcher
from anchorage_components.artifacts import UntrainedEmbeddings


def test_first_model_is_blessed_and_published(workshop, table, picture):
    embeddings = workshop.embeddings("embeddings", table, table_of("val", 0.2, seed=1))
    index = workshop.index(table)
    found = {"mean": 0.469, "deviation": 0.004, "lowest": 0.464, "highest": 0.475}
    spread = {"metrics": {"map@r": found}, "seeds": [1, 2], "machines": 1, "trainings": 2, "same_code": True}
    outputs, report = workshop.evaluate(embeddings, index=index, spread_json=json.dumps(spread))
    assert report["verdict"]["state"] == "FIRST"
    assert report["experiment"] == "tiny"
    assert report["spread"] == spread
    page = (Path(outputs["report"].uri) / "report.html").read_text(encoding="utf-8")
    assert page.count("MAP@R 46.9 ± 0.4 (46.4 to 47.5) over 2 seeds on 1 machine") == 3  # top, card, embedded numbers
    assert report["thresholds"]["split"] == "val"
    assert report["index"]["rows"] == 20
    blessing = outputs["blessing"]
    assert blessing.get_int_custom_property("blessed") == 1
    assert blessing.get_string_custom_property("current_model") == workshop.model.uri
    assert blessing.get_int_custom_property("current_model_id") == 17
    assert [path.name for path in Path(blessing.uri).iterdir()] == ["BLESSED"]
    assert outputs["report"].get_string_custom_property("state") == "FIRST"

    why = {"reasons": ["2 items are not in release 1; the limit is 2."], "release": 1}
    published = workshop.publish(index, outputs, trigger_json=json.dumps(why))
    assert published.get_int_custom_property("version") == 1
    result = json.loads((Path(published.uri) / "release.json").read_text())
    release = open_release(result["path"])
    assert release.version == result["version"] == 1
    assert release.facts["run_key"] == "k"
    assert release.facts["trigger"] == why
    assert release.facts["metrics"]["map@r"] == report["metrics"]["map@r"]["value"]
    low, high = release.facts["intervals"]["map@r"]
    assert low <= release.facts["metrics"]["map@r"] <= high
    assert release.facts["evaluation_set"] == report["evaluation_set"]
    assert release.thresholds == report["thresholds"]
    assert release.calibration == report["calibration"]
    assert (release.path / "report/report.html").is_file()
    card = (release.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith('---\nlibrary_name: "keras"\n')
    assert f"| MAP@R | {100 * report['metrics']['map@r']['value']:.1f} |" in card
    assert json.loads((release.path / "labels.json").read_text()) == [f"test-{number}" for number in range(CLASSES)]
    answers = Searcher(release).search([picture(1), b"no image"], k=3)
    assert len(answers[0].ids) == 3
    assert answers[1].fault.code == "E_IMAGE_FORMAT"


def test_model_below_its_floor_is_neither_blessed_nor_published(workshop, table):
    embeddings, index = workshop.embeddings("embeddings", table_of("test", 5.0)), workshop.index(table)
    outputs, report = workshop.evaluate(embeddings, settings={"minimum": {"map@r": 0.9}})
    assert report["verdict"]["state"] == "HOLD"
    assert outputs["blessing"].get_int_custom_property("blessed") == 0
    assert [path.name for path in Path(outputs["blessing"].uri).iterdir()] == ["NOT_BLESSED"]
    with pytest.raises(
        GateError, match=r"E_NOT_BLESSED.*HOLD: MAP@R is .* below its floor of 90 %.* Nothing is published"
    ):
        workshop.publish(index, outputs)
    assert current_version(workshop.folder / "releases") is None


def test_a_first_model_that_loses_to_raw_pixels_is_not_published(workshop, table):
    untrained = workshop.artifact(UntrainedEmbeddings, "untrained")
    Path(untrained.uri).mkdir()
    for name, noise in (("pixels", 0.2), ("network", 9.0)):
        write_table(Path(untrained.uri) / f"{name}.parquet", table_of("test", noise))
    poor = workshop.embeddings("poor", table_of("test", 5.0, seed=2))
    outputs, report = workshop.evaluate(poor, settings={"minimum": {}}, untrained=untrained)
    assert [entry["name"] for entry in report["untrained"]] == ["raw pixels", "untrained network"]
    assert_blessed(outputs, "training_does_not_help", "HOLD: MAP@R", blessed=False)
    with pytest.raises(GateError, match=r"E_NOT_BLESSED.*is not better than the raw pixels, \d+\.\d %: difference −"):  # noqa: RUF001
        workshop.publish(workshop.index(table), outputs)
    assert current_version(workshop.folder / "releases") is None

    force = {"minimum": {}, "force": "to show how"}
    outputs, report = workshop.evaluate(poor, "forced", force, untrained=untrained)
    assert report["verdict"]["state"] == "FORCED"
    workshop.publish(workshop.index(table, "again"), outputs)
    facts = open_release(workshop.folder / "releases").facts
    assert facts["untrained"] == {entry["name"]: entry["metrics"]["map@r"]["baseline"] for entry in report["untrained"]}
    assert facts["verdict"]["reasons"][0] == "Published by force, against the gate: to show how."


def test_parts_of_different_models_are_refused(workshop, table):
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED.*model and embeddings"):
        workshop.evaluate(workshop.embeddings("foreign", table, fingerprint="f" * 64))
    embeddings = workshop.embeddings("embeddings", table)
    foreign = workshop.index(table, "foreign-index", fingerprint="f" * 64)
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED.*model and index"):
        workshop.evaluate(embeddings, index=foreign)
    outputs, _ = workshop.evaluate(embeddings)
    with pytest.raises(DataError, match="E_RELEASE_MIXED"):
        workshop.publish(foreign, outputs)
    assert current_version(workshop.folder / "releases") is None


def test_blessing_of_another_model_is_refused(workshop, table):
    outputs, _ = workshop.evaluate(workshop.embeddings("embeddings", table))
    outputs["blessing"].set_string_custom_property("current_model", "/elsewhere")
    with pytest.raises(GateError, match=r"E_NOT_BLESSED.*one for /elsewhere"):
        workshop.publish(workshop.index(table), outputs)


def test_blessing_without_properties_is_refused(workshop, table):
    outputs, _ = workshop.evaluate(workshop.embeddings("embeddings", table))
    outputs["blessing"] = workshop.artifact(ModelBlessing, "blank")
    with pytest.raises(GateError, match=r"E_NOT_BLESSED"):
        workshop.publish(workshop.index(table), outputs)
