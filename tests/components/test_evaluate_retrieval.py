"""EvaluateRetrieval on real artifacts."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation import assert_blessed, table_of
from PIL import Image
from searches import record
from tfx.types.standard_artifacts import Examples, ModelRun, TunerResults

from anchorage.data.store import Record, RecordSpec, write_store
from anchorage.errors import DataError
from anchorage.retrieval.table import Embeddings, read_table
from anchorage_components.artifacts import DataAudit, EmbeddingTable


def test_the_page_states_that_the_spread_is_not_measured(workshop, table):
    outputs, report = workshop.evaluate(workshop.embeddings("embeddings", table))
    assert "spread" not in report
    page = (Path(outputs["report"].uri) / "report.html").read_text(encoding="utf-8")
    expected = "One training, seed 1. The spread over seeds is not measured: `anchorage spread FILE`"
    assert page.split("</header>")[0].count(expected) == 1


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


def test_vectors_have_the_pictures_of_their_paths(workshop):
    plain = table_of("test", 0.2)
    store = workshop.artifact(Examples, "store")
    store.splits = ["test"]
    records = [Record(*row) for row in zip(plain.ids, plain.labels, plain.roles, plain.vectors, strict=True)]
    write_store(workshop.folder / "store/Split-test", records, RecordSpec(dimension=plain.dimension))
    paths = np.array([f"{row}.png" for row in range(len(plain))], object)
    for path in paths[:-1]:
        Image.new("RGB", (8, 8), "red").save(workshop.folder / path)
    table = Embeddings(plain.ids, plain.labels, plain.roles, plain.splits, plain.vectors, {"path": paths})
    facts = {"experiment": {"name": "tiny", "seed": 1}, "run_key": "k", "data_root": str(workshop.folder)}
    embeddings = workshop.embeddings("embeddings", table)
    outputs, _ = workshop.evaluate(embeddings, store=store, facts_json=json.dumps(facts))
    page = (Path(outputs["report"].uri) / "report.html").read_text("utf-8")
    places = json.loads(page.partition('id="pictures">')[2].partition("</script>")[0])["places"]
    assert set(places) == set(plain.ids[:-1])


def test_pictures_audit_and_history(drawing_workshop, table):
    workshop = drawing_workshop
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
    (Path(results.uri) / "search.json").write_text(json.dumps(record()))
    outputs, report = workshop.evaluate(
        embeddings, store=store, audit=audit, model_run=model_run, tuner_results=results
    )
    assert report["search"]["trials"] == record()["trials"]
    assert report["search"]["lines"][0] == 'loss.name = "triplet"'
    kept = read_table(Path(outputs["report"].uri) / "embeddings.parquet")
    np.testing.assert_array_equal(np.sort(kept.ids), np.sort(table.ids))
    assert report["training"] == history
    assert report["dataset"] == [{"split": "test", "classes": 5, "images": 20, "singletons": 2}]
    page = (Path(outputs["report"].uri) / "report.html").read_text()
    assert page.count('src="data:image/') > 20
    assert "image<br>missing" in page
    assert (Path(outputs["report"].uri) / "figures/training.png").is_file()
