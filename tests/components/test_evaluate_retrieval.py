"""EvaluateRetrieval and PublishRelease on real artifacts: a tiny exported model, its embeddings, a ScaNN index."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing, ModelRun, TunerResults

from anchorage.data.store import Record, RecordSpec, write_store
from anchorage.errors import DataError, GateError
from anchorage.release import current_version, fingerprint_model, open_release
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.table import Embeddings, read_table, write_ids, write_table
from anchorage.serving.searcher import Searcher
from anchorage_components.artifacts import (
    BaselineRelease,
    DataAudit,
    EmbeddingTable,
    Release,
    RetrievalIndex,
    RetrievalReport,
    UntrainedEmbeddings,
)
from anchorage_components.evaluate_retrieval import EvaluateRetrieval
from anchorage_components.publish_release import PublishRelease

CLASSES, EACH = 5, 4


def table_of(split, noise, seed=0, dim=5, classes=CLASSES):
    rng = np.random.default_rng(seed)
    labels = np.array([f"{split}-{number}" for number in range(classes) for _ in range(EACH)], object)
    vectors = np.repeat(rng.normal(size=(classes, dim)), EACH, axis=0) + noise * rng.normal(size=(classes * EACH, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
    ids = np.array([f"{split}/{row}.png" for row in range(len(labels))], object)
    return Embeddings(ids, labels, np.full(len(ids), "both", object), np.full(len(ids), split, object), vectors)


class Workshop:
    """Makes input artifacts below one folder, and calls the two components."""

    def __init__(self, folder, export_encoder):
        self.folder = folder
        self.model = self.artifact(Model, "model")
        self.model.id = 17
        export_encoder(0, folder / "model/Format-Serving")
        self.fingerprint = fingerprint_model(folder / "model/Format-Serving")

    def artifact(self, kind, name):
        artifact = kind()
        artifact.uri = str(self.folder / name)
        return artifact

    def embeddings(self, name, *tables, fingerprint=None):
        artifact = self.artifact(EmbeddingTable, name)
        Path(artifact.uri).mkdir()
        for number, table in enumerate(tables):
            write_table(Path(artifact.uri) / f"vectors-{number}.parquet", table)
        facts = {"model_fingerprint": fingerprint or self.fingerprint, "dimension": 5, "counts": {}}
        (Path(artifact.uri) / "table.json").write_text(json.dumps(facts))
        return artifact

    def index(self, table, name="index", fingerprint=None):
        artifact = self.artifact(RetrievalIndex, name)
        Path(artifact.uri).mkdir()
        built = build_index(table.vectors, neighbors=3)
        save_index(built, artifact.uri, model_fingerprint=fingerprint or self.fingerprint)
        write_ids(Path(artifact.uri) / "ids.parquet", table)
        return artifact

    def evaluate(self, embeddings, name="report", settings=None, **others):
        outputs = {
            "report": self.artifact(RetrievalReport, name),
            "blessing": self.artifact(ModelBlessing, f"{name}-blessing"),
        }
        plain = {"metrics": ["recall@1", "map@r"], "minimum": {"map@r": 0.3}, "max_drop": 0.01, "slices": []}
        arguments = {
            "settings_json": json.dumps({**plain, "seed": 1, **(settings or {})}),
            "facts_json": '{"experiment": {"name": "tiny", "seed": 1}, "run_key": "k"}',
        }
        EvaluateRetrieval.test_call(embeddings=embeddings, model=self.model, **outputs, **{**arguments, **others})
        return outputs, json.loads((Path(outputs["report"].uri) / "report.json").read_text())

    def baseline(self, **facts):
        artifact = self.artifact(BaselineRelease, "baseline")
        Path(artifact.uri).mkdir()
        found = {"version": 4, "path": "x", "first": False, "reason": "Release 4 is current.", **facts}
        (Path(artifact.uri) / "baseline.json").write_text(json.dumps(found))
        return artifact

    def publish(self, index, outputs):
        release = self.artifact(Release, "release")
        PublishRelease.test_call(
            model=self.model,
            index=index,
            release=release,
            releases=str(self.folder / "releases"),
            facts_json='{"run_key": "k"}',
            **outputs,
        )
        return release


def assert_blessed(outputs, case, reason, blessed=True):
    blessing = outputs["blessing"]
    assert blessing.get_string_custom_property("case") == case
    assert blessing.get_string_custom_property("reason").startswith(reason)
    assert blessing.get_int_custom_property("blessed") == int(blessed)
    assert [path.name for path in Path(blessing.uri).iterdir()] == ["BLESSED" if blessed else "NOT_BLESSED"]


@pytest.fixture
def workshop(tmp_path, export_encoder):
    return Workshop(tmp_path, export_encoder)


@pytest.fixture
def table():
    return table_of("test", 0.2)


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

    published = workshop.publish(index, outputs)
    assert published.get_int_custom_property("version") == 1
    told = json.loads((Path(published.uri) / "release.json").read_text())
    release = open_release(told["path"])
    assert release.version == told["version"] == 1
    assert release.facts["run_key"] == "k"
    assert release.facts["metrics"]["map@r"] == report["metrics"]["map@r"]["value"]
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


def test_the_page_states_that_the_spread_is_not_measured(workshop, table):
    outputs, report = workshop.evaluate(workshop.embeddings("embeddings", table))
    assert "spread" not in report
    page = (Path(outputs["report"].uri) / "report.html").read_text(encoding="utf-8")
    told = "One training, seed 1. The spread over seeds is not measured: `anchorage spread FILE`"
    assert page.split("</header>")[0].count(told) == 1


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


def test_comparison_with_the_release_before(workshop, table):
    baseline = workshop.baseline()
    good, bad = (workshop.embeddings(name, table_of("test", noise)) for name, noise in (("good", 0.2), ("bad", 5.0)))
    _, report = workshop.evaluate(good, baseline=baseline, baseline_embeddings=bad)
    assert report["verdict"]["state"] == "SHIP"
    assert report["baseline"]["name"] == "release 4"
    assert report["baseline"]["reason"] == "Release 4 is current."
    _, report = workshop.evaluate(bad, "again", baseline=baseline, baseline_embeddings=good, settings={"minimum": {}})
    assert report["verdict"]["state"] == "HOLD"


@pytest.mark.parametrize(("first", "case"), [(True, "first_run"), (False, "no_baseline")])
def test_no_baseline_release(workshop, table, first, case):
    facts = {"version": None, "path": None, "first": first, "reason": "Nothing was published yet."}
    baseline, none = workshop.baseline(**facts), workshop.artifact(EmbeddingTable, "none")
    Path(none.uri).mkdir()
    (Path(none.uri) / "none.json").write_text("{}")
    embeddings = workshop.embeddings("embeddings", table)
    outputs, report = workshop.evaluate(embeddings, baseline=baseline, baseline_embeddings=none)
    assert report["verdict"]["state"] == "FIRST"
    assert_blessed(outputs, case, "FIRST: MAP@R is")
    assert report["baseline"]["reason"] == "Nothing was published yet."
    assert "reason" in report["thresholds"]  # no validation rows: no threshold, and the report says why


def test_changed_test_set(workshop):
    new, old = (workshop.embeddings(name, table_of("test", 0.2, classes=8)) for name in ("new", "old"))
    baseline = workshop.baseline(evaluation_set="of other images")
    outputs, report = workshop.evaluate(new, baseline=baseline, baseline_embeddings=old)
    assert_blessed(outputs, "changed_test_set", "SHIP: MAP@R ±0.0 points against release 4 on the same 32 queries")
    assert "not those release 4 was published with" in outputs["blessing"].get_string_custom_property("reason")
    assert not report["compatibility"]["re_embed"]
    few = workshop.embeddings("few", table_of("test", 0.2, classes=8).select(np.arange(8)))
    outputs, _ = workshop.evaluate(new, "again", baseline=baseline, baseline_embeddings=few)
    assert_blessed(outputs, "too_few_common", "HOLD: Only 25 % of the queries were embedded by release 4", False)


def test_worse_on_one_slice_holds_and_force_is_recorded(workshop):
    good = table_of("test", 0.5, classes=24, dim=12)
    worse = good.vectors.copy()
    worse[:32] = np.roll(worse[:32], 1, axis=0)  # a quarter of each of eight classes is taken for the next one
    family = np.array(["fluent"] * 32 + ["lucide"] * 64, object)
    with_family = [
        Embeddings(good.ids, good.labels, good.roles, good.splits, vectors, {"family": family})
        for vectors in (worse, good.vectors)
    ]
    new, old = (workshop.embeddings(name, table) for name, table in zip(("new", "old"), with_family, strict=True))
    baseline = {"baseline": workshop.baseline(), "baseline_embeddings": old}
    settings = {"max_drop": 0.5, "slices": ["family"]}
    outputs, report = workshop.evaluate(new, settings=settings, **baseline)
    assert_blessed(outputs, "worse_on_slice", "HOLD: Worse on the slice family=fluent: −", False)  # noqa: RUF001
    assert [entry["worse"] for entry in report["comparison"]["slices"]] == [True, False]
    gate = {**settings, "force": "fluent icons were relabelled", "confidence": 0.9, "resamples": 500}
    outputs, report = workshop.evaluate(new, "forced", gate, **baseline)
    assert_blessed(outputs, "forced", "FORCED: Published by force, against the gate: fluent icons were relabelled.")
    assert report["comparison"]["resamples"] == 500
    lax = {**settings, "slice_drops": {"family": 0.9}}
    assert_blessed(workshop.evaluate(new, "lax", lax, **baseline)[0], "not_worse", "SHIP: ")


def test_index_is_judged_with_the_model(workshop, table):
    validation = table_of("val", 0.2, seed=1)
    embeddings = workshop.embeddings("embeddings", table, validation)
    index = workshop.index(table)
    outputs, report = workshop.evaluate(embeddings, index=index)
    assert report["index_trial"]["neighbor_recall"] == 1
    assert report["index_trial"]["metrics"]["recall@1"]["exact"] == report["metrics"]["recall@1"]["value"]
    outputs, report = workshop.evaluate(embeddings, "slow", index=index, settings={"index_p99_ms": 1e-9})
    assert_blessed(outputs, "index", "HOLD: 99 % of searches take up to", False)
    foreign = workshop.index(table_of("other", 0.2, seed=3), "other")
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED: Expected an embedding for each image .* none for 20"):
        workshop.evaluate(embeddings, "mixed", index=foreign)


def test_calibration_is_fitted_and_checked_in_the_gallery_of_the_index(workshop):
    tables = [table_of(split, 0.6, seed, classes=20) for seed, split in enumerate(("train", "val", "test"))]
    embeddings = workshop.embeddings("embeddings", *tables)
    whole = Embeddings(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in ("ids", "labels", "roles", "splits")),
        np.concatenate([table.vectors for table in tables]),
    )
    _, report = workshop.evaluate(embeddings, index=workshop.index(whole), settings={"minimum": {}})
    found = report["calibration"]
    assert (found["split"], found["classes"], found["gallery"]) == ("val", 20, 240)
    assert (found["check"]["split"], found["check"]["gallery"], found["check"]["queries"]) == ("test", 240, 80)
    assert report["counts"]["gallery"] == 80  # the metrics stay those of the test split alone
    assert report["verdict"]["state"] == "FIRST"
    strict = {"minimum": {}, "max_calibration_error": 0.0, "require_calibration": True, "false_accepts": 0.1}
    outputs, report = workshop.evaluate(embeddings, "strict", strict, index=workshop.index(whole, "again"))
    assert_blessed(outputs, "calibration", "HOLD: Does not hold: the calibration error is", False)
    assert report["calibration"]["unknown"]["target"] == 0.1


def test_family_of_the_query_is_left_out(workshop):
    plain = table_of("test", 0.5, classes=8)
    columns = {"family": np.array([f"family {n % 2}" for n in range(32)], object)}
    table = Embeddings(plain.ids, plain.labels, plain.roles, plain.splits, plain.vectors, columns)
    embeddings = workshop.embeddings("embeddings", table)
    _, report = workshop.evaluate(embeddings, settings={"leave_out": "family", "minimum": {}, "clustering": True})
    assert report["metrics"]["map@r"]["convention"].endswith("nor anything of its own family")
    assert report["verification"]["pairs"]["same_class"] == 32 * 2
    assert report["clustering"]["clusters"] == 8


def test_pictures_audit_and_history(workshop, table):
    store = workshop.artifact(Examples, "store")
    store.splits = ["test"]
    images = np.random.default_rng(0).integers(0, 256, (len(table), 16, 16, 3), np.uint8)
    records = [Record(*row) for row in zip(table.ids, table.labels, table.roles, images, strict=True)]
    write_store(workshop.folder / "store/Split-test", records[:15], RecordSpec(16))
    audit = workshop.artifact(DataAudit, "audit")
    Path(audit.uri).mkdir()
    counts = {"images": 20, "classes": 5, "per_class": {}, "singletons": {"count": 2, "first": []}}
    (Path(audit.uri) / "audit.json").write_text(json.dumps({"splits": {"test": counts}}))
    model_run = workshop.artifact(ModelRun, "model-run")
    Path(model_run.uri).mkdir()
    history = {"settings": {"seed": 5}, "best_epoch": 1, "epochs": [{"epoch": 1, "loss": 1.0, "val_map@r": 0.5}]}
    (Path(model_run.uri) / "history.json").write_text(json.dumps(history))
    embeddings = workshop.embeddings("embeddings", table)
    results = workshop.artifact(TunerResults, "tuner-results")
    Path(results.uri).mkdir()
    rows = [{"trial_id": "2", "score": 0.5, "margin": 0.1}, {"trial_id": "0", "score": 0.4, "margin": 0.3}]
    (Path(results.uri) / "tuner_results.json").write_text(json.dumps(rows))
    outputs, report = workshop.evaluate(
        embeddings, store=store, audit=audit, model_run=model_run, tuner_results=results
    )
    assert report["search"] == {
        "objective": "map@r",
        "failed": 1,
        "trials": [
            {"number": 1, "score": 0.4, "values": {"margin": 0.3}},
            {"number": 3, "score": 0.5, "values": {"margin": 0.1}},
        ],
    }
    kept = read_table(Path(outputs["report"].uri) / "embeddings.parquet")
    np.testing.assert_array_equal(np.sort(kept.ids), np.sort(table.ids))
    assert report["training"] == history
    assert report["dataset"] == [{"split": "test", "classes": 5, "images": 20, "singletons": 2}]
    page = (Path(outputs["report"].uri) / "report.html").read_text()
    assert page.count('src="data:image/') > 20
    assert "image<br>missing" in page


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


def unlabelled(noise=0.1):
    """Embeddings of images that are each the only one of its class."""
    table = table_of("test", noise)
    return dataclasses.replace(table, labels=table.ids)


UNTRAINED = json.dumps({"experiment": {"name": "tiny", "training": {"epochs": 0}}, "run_key": "k"})


def test_images_without_labels_are_released_with_a_report_that_says_so(workshop):
    table = unlabelled()
    embeddings, index = workshop.embeddings("embeddings", table), workshop.index(table)
    outputs, report = workshop.evaluate(embeddings, index=index, facts_json=UNTRAINED)
    assert_blessed(outputs, "first_run", "FIRST: Nothing could be measured: no two images of split 'test'")
    assert (report["metrics"], report["headline"], report["counts"]["queries"]) == ({}, [], 0)
    page = (Path(outputs["report"].uri) / "report.html").read_text()
    assert "Nothing could be measured" in page
    assert "none: the encoder is used as it is" in page
    workshop.publish(index, outputs)
    assert open_release(workshop.folder / "releases").facts["metrics"] == {}


@pytest.mark.parametrize(
    ("metrics", "force", "case", "state"),
    [
        ({}, "", "unmeasured", "SHIP"),
        ({"map@r": 0.4}, "", "unmeasured", "HOLD"),
        ({"map@r": 0.4}, "more photos", "forced", "FORCED"),
    ],
)
def test_what_was_measured_is_not_replaced_by_what_cannot_be(workshop, metrics, force, case, state):
    outputs, _ = workshop.evaluate(
        workshop.embeddings("embeddings", unlabelled()),
        settings={"force": force},
        facts_json=UNTRAINED,
        baseline=workshop.baseline(metrics=metrics),
    )
    assert_blessed(outputs, case, state, blessed=state != "HOLD")


def test_a_trained_model_needs_something_to_measure(workshop):
    with pytest.raises(DataError) as raised:
        workshop.evaluate(workshop.embeddings("embeddings", unlabelled()))
    assert raised.value.code == "E_NO_RELEVANT"
