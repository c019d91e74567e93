"""EvaluateRetrieval: evaluates the candidate, writes the report, and blesses the candidate or not."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types.artifact_utils import get_split_uri
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing, ModelRun, TunerResults
from tfx.utils import path_utils

from anchorage.data.store import RecordStore
from anchorage.data.tables import PATH
from anchorage.errors import DataError
from anchorage.files import replace_file
from anchorage.judging.calibration_check import calibrate_and_check
from anchorage.judging.index_trial import judge_index
from anchorage.judging.judge import judge_candidate
from anchorage.judging.settings import TEST, VALIDATION, JudgeSettings
from anchorage.judging.two_releases import JUDGED, VALIDATED
from anchorage.judging.unmeasured import is_measurable, report_unmeasured
from anchorage.release import fingerprint_model
from anchorage.release.manifest import check_pair, read_index_facts
from anchorage.reporting.card import write_card
from anchorage.reporting.pictures import read_picture_of
from anchorage.reporting.report import write_report
from anchorage.retrieval.table import Embeddings, read_ids, read_table, write_table
from anchorage.tuning.record import SEARCH, read_search
from anchorage.untrained import read_untrained
from anchorage_components.artifacts import (
    AUDIT,
    BASELINE,
    CALIBRATION,
    CARD,
    HISTORY,
    IDS,
    THRESHOLDS,
    BaselineRelease,
    DataAudit,
    EmbeddingTable,
    RetrievalIndex,
    RetrievalReport,
    UntrainedEmbeddings,
    read_table_facts,
)
from anchorage_components.nodes import node, uri_of
from anchorage_components.parameters import from_parameter


@node
def EvaluateRetrieval(
    embeddings: InputArtifact[EmbeddingTable],
    model: InputArtifact[Model],
    report: OutputArtifact[RetrievalReport],
    blessing: OutputArtifact[ModelBlessing],
    index: InputArtifact[RetrievalIndex] = None,
    baseline: InputArtifact[BaselineRelease] = None,
    baseline_embeddings: InputArtifact[EmbeddingTable] = None,
    untrained: InputArtifact[UntrainedEmbeddings] = None,
    store: InputArtifact[Examples] = None,
    audit: InputArtifact[DataAudit] = None,
    model_run: InputArtifact[ModelRun] = None,
    tuner_results: InputArtifact[TunerResults] = None,
    settings_json: Parameter[str] = "{}",
    facts_json: Parameter[str] = "{}",
    data_version: Parameter[str] = "",
    run_key: Parameter[str] = "",
    trigger_json: Parameter[str] = "{}",
    spread_json: Parameter[str] = "{}",
    code_version: Parameter[str] = "",
):
    """Evaluates the candidate, compares it with its baselines on the same queries, and decides whether to bless it.

    The candidate must not fall behind the last release, and must beat the untrained baselines. A rejected candidate is
    not an error of this node: the report states the reasons, and PublishRelease raises.

    Args:
        embeddings: embeddings of the candidate: the test split, the rows of the index and, for thresholds and match
            probabilities, the split "val".
        model: the candidate.
        report: output folder for `report.html`, `report.json`, `summary.md`, `thresholds.json`, `calibration.json`,
            `figures/`, `neighbors/`, and the evaluated embeddings, which allow later comparisons between releases; gets
            the custom properties `state` and `primary`.
        blessing: output in the format of the stock Evaluator: the custom properties `blessed`, `current_model` and
            `current_model_id`, and an empty file BLESSED or NOT_BLESSED; in addition the custom properties `reason`
            (sentences) and `case` (what decided, see `Verdict`).
        index: index of the candidate, evaluated together with the model.
        baseline: output of FindRelease.
        baseline_embeddings: embeddings of the same images by the baseline release.
        untrained: embeddings of the same images by the untrained baselines.
        store: packed images, for the pictures of the report.
        audit: data audit, for the report.
        model_run: run folder of the Trainer with `history.json`, for the training curve and the tuned settings.
        tuner_results: trials of the Tuner, for the report.
        settings_json: JSON object with the fields of `JudgeSettings`.
        facts_json: JSON object with `experiment` (the whole experiment file); optionally `command`, `intended_use`,
            `limits` (a list of sentences) and `license`.
        data_version: digest of the data.
        run_key: identity of the run.
        trigger_json: JSON object with the reasons why a scheduled run started, as `Need.to_facts` gives them.
        spread_json: JSON object with the spread of the metrics over seeds, see `format_spread`; empty if not measured.
        code_version: digest of the code; part of the cache key, otherwise unused.

    Raises:
        DataError: `E_SPLIT_EMPTY`, `E_NO_RELEVANT`; `E_RELEASE_MIXED` if embeddings or index belong to another model.
        UsageError: for unknown metrics or settings out of range.
    """
    fingerprint = fingerprint_model(path_utils.serving_model_path(model.uri))
    check_pair(fingerprint, (read_table_facts(embeddings.uri) or {}).get("model_fingerprint"), "embeddings")
    origin = {"data_version": data_version, "run_key": run_key, "trigger": from_parameter(trigger_json)}
    provenance = {**from_parameter(facts_json), **{name: value for name, value in origin.items() if value}}
    context: dict[str, Any] = {"facts": provenance, "model": {"Fingerprint": fingerprint[:16]}}
    context["spread"] = from_parameter(spread_json)
    settings, trial = JudgeSettings.from_dict(from_parameter(settings_json)), None
    if index is not None:
        context["index"] = read_index_facts(Path(index.uri))
        check_pair(fingerprint, context["index"].get("model_fingerprint"), "index")
    if audit is not None:
        context["audit"] = json.loads((Path(audit.uri) / AUDIT).read_text(encoding="utf-8"))
        context["dataset"] = _count_splits(context["audit"]["splits"])
    if model_run is not None:
        context["training"] = json.loads((Path(model_run.uri) / HISTORY).read_text(encoding="utf-8"))
    if tuner_results is not None:
        context["search"] = _read_search(Path(tuner_results.uri))
    candidate, facts = read_table(embeddings.uri, [TEST]), _read_baseline_facts(baseline)
    pictures = _picture_reader(store, context["facts"].get("data_root", ""), candidate)
    if _is_untrained(context) and not is_measurable(candidate):
        judged = report_unmeasured(candidate, settings, baseline_facts=facts, context=context)
        _write(judged, report, blessing, model, candidate, pictures)
        return
    table = read_table(embeddings.uri)
    gallery = table.select(table.roles != "query") if index is None else _select_gallery(Path(index.uri), table)
    if index is not None:
        trial = judge_index(
            index.uri,
            gallery,
            table.select((table.splits == TEST) & (table.roles != "gallery")),
            neighbors=context["index"]["neighbors"],
            settings=settings,
        )
    validation = _read_validation(embeddings.uri)
    judged = judge_candidate(
        candidate,
        settings,
        baseline=None if baseline_embeddings is None else _read_baseline(baseline_embeddings.uri),
        baseline_facts=facts,
        untrained=None if untrained is None else read_untrained(untrained.uri, TEST),
        validation=validation,
        context=context,
        index_trial=trial,
        calibration=calibrate_and_check(candidate, validation, gallery, settings),
    )
    report.set_float_custom_property("primary", judged["metrics"][settings.primary]["value"])
    _write(judged, report, blessing, model, table, pictures)


def _is_untrained(context: Mapping[str, Any]) -> bool:
    return context["facts"].get("experiment", {}).get("training", {}).get("epochs") == 0


def _write(
    judged: dict[str, Any],
    report: RetrievalReport,
    blessing: ModelBlessing,
    model: Model,
    table: Embeddings,
    read_pictures: Callable[[Sequence[str]], dict[str, np.ndarray | None]],
) -> None:
    write_report(judged, report.uri, read_pictures)
    write_table(Path(report.uri) / JUDGED, table.select(table.splits == TEST))
    if (validated := table.splits == VALIDATION).any():
        write_table(Path(report.uri) / VALIDATED, table.select(validated))
    for name, key in ((THRESHOLDS, "thresholds"), (CALIBRATION, "calibration")):
        replace_file(Path(report.uri) / name, json.dumps(judged[key], indent=1).encode())
    replace_file(Path(report.uri) / CARD, write_card(judged).encode())
    report.set_string_custom_property("state", judged["verdict"]["state"])
    _bless(blessing, model, judged["verdict"])
    logging.info("%s: %s", judged["verdict"]["state"], " ".join(judged["verdict"]["reasons"]))


def _bless(blessing: ModelBlessing, model: Model, verdict: dict[str, Any]) -> None:
    blessing.set_string_custom_property("current_model", uri_of(model))
    blessing.set_int_custom_property("current_model_id", model.id)
    blessing.set_int_custom_property("blessed", int(verdict["blessed"]))
    blessing.set_string_custom_property("reason", f"{verdict['state']}: {' '.join(verdict['reasons'])}")
    blessing.set_string_custom_property("case", verdict["case"])
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("BLESSED" if verdict["blessed"] else "NOT_BLESSED")).touch()


def _select_gallery(folder: Path, table: Embeddings) -> Embeddings:
    """The embeddings of the rows of an index, of any split, in the order of the index."""
    rows = {id_: row for row, id_ in enumerate(table.ids.tolist())}
    ids = read_ids(folder / IDS)["id"].tolist()
    if missing := [id_ for id_ in ids if id_ not in rows]:
        raise DataError(
            "E_RELEASE_MIXED",
            f"Expected an embedding for each image of the index. Received: none for {len(missing)}: {missing[:3]}",
        )
    return table.select(np.array([rows[id_] for id_ in ids], np.int64))


def _read_search(folder: Path) -> dict[str, Any]:
    """The record of the search; empty if a tuner of the user's own kept none."""
    return asdict(read_search(folder / SEARCH)) if (folder / SEARCH).exists() else {}


def _count_splits(splits: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "split": name,
            "classes": facts["classes"],
            "images": facts["images"],
            "singletons": facts["singletons"]["count"],
        }
        for name, facts in splits.items()
    ]


def _read_baseline_facts(baseline: BaselineRelease | None) -> dict[str, Any]:
    if baseline is None:
        return {"version": None, "reason": "No baseline was requested."}
    return json.loads((Path(baseline.uri) / BASELINE).read_text(encoding="utf-8"))


def _read_baseline(uri: str) -> Embeddings | None:
    return None if read_table_facts(uri) is None else read_table(uri, [TEST])


def _read_validation(uri: str) -> Embeddings | None:
    try:
        return read_table(uri, [VALIDATION])
    except DataError as error:
        if error.code != "E_SPLIT_EMPTY":
            raise
        logging.warning("no thresholds: %s", error)
        return None


def _picture_reader(
    store: Examples | None, root: str, table: Embeddings
) -> Callable[[Sequence[str]], dict[str, np.ndarray | None]]:
    """A function from ids to images; None for an image that is not in the store.

    For vectors, the path of an image below the root is a column of the table, or the id.
    """
    if store is None:
        return lambda ids: dict.fromkeys(ids)

    def read(ids: Sequence[str]) -> dict[str, np.ndarray | None]:
        records = RecordStore(get_split_uri([store], TEST))
        if records.spec.dimension:
            paths = dict(zip(table.ids, table.columns.get(PATH, table.ids), strict=True))
            return {id_: read_picture_of(root, paths.get(id_, id_)) for id_ in ids}
        rows = {id_: row for row, id_ in enumerate(records.ids)}
        return {id_: records.read([rows[id_]])[0] if id_ in rows else None for id_ in ids}

    return read
