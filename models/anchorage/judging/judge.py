"""Evaluation of a candidate by its embeddings: the numbers of the report and the verdict of the gate."""

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from anchorage.errors import DataError
from anchorage.judging import numbers
from anchorage.judging.changes import changed_settings
from anchorage.judging.compatibility import compatibility
from anchorage.judging.confusion import confused_pairs, confusion_matrix
from anchorage.judging.explorer import list_neighbors
from anchorage.judging.gate import Comparison, StatisticalGate, Verdict
from anchorage.judging.identity import describe_identity
from anchorage.judging.searched import describe_search
from anchorage.judging.settings import TEST, VALIDATION, JudgeSettings, QueryProtocol
from anchorage.judging.slices import make_slices
from anchorage.judging.space_report import describe_space
from anchorage.judging.thresholds import choose_thresholds
from anchorage.judging.untrained import compare_untrained
from anchorage.release.libraries import library_versions
from anchorage.retrieval.clustering import cluster_metrics
from anchorage.retrieval.metrics import RetrievalResult
from anchorage.retrieval.pairs import PairStatistics, pair_statistics

if TYPE_CHECKING:
    from anchorage.retrieval.table import Embeddings

FORMAT = 1
_EACH = 8  # queries per gallery
_HEADLINE = ("recall@1", "r_precision", "ndcg@10")  # in addition to the primary metric


def judge_candidate(
    candidate: "Embeddings",
    settings: JudgeSettings,
    *,
    baseline: "Embeddings | None" = None,
    baseline_facts: Mapping[str, Any],
    untrained: "Mapping[str, Embeddings] | None" = None,
    validation: "Embeddings | None" = None,
    context: Mapping[str, Any],
    index_trial: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a candidate, compare it with the baseline, and judge it by the gate.

    Args:
        candidate: embeddings of the evaluation split.
        settings: metrics, margins and limits.
        baseline: embeddings of the same split by the earlier release.
        baseline_facts: `version` (None if there is no release), `reason` as
            text, `first` (whether there are no earlier releases), and the
            `evaluation_set` that it was published with.
        untrained: baselines without training: name, such as "raw pixels" ->
            embeddings of the same images.
        validation: embeddings of other classes than those of the evaluation
            split, to choose thresholds.
        context: additional sections, all optional: `facts` (with `experiment`,
            the experiment file), `model`, `dataset` (counts per split),
            `index`, `audit`, `training` (`settings`, `recipe` with the origin
            of each, `best_epoch`, `stop_reason`, and `epochs`: one row each
            with `loss` and validation metrics), `search` (the record of a
            hyperparameter search), `spread` (over seeds, as for
            `format_spread`).
        index_trial: result of `judge_index`.
        calibration: result of `calibrate_and_check`.

    Returns:
        The JSON-ready report, see `write_report`. Keys without data are
        absent.

    Raises:
        DataError: if the split is empty, no query has a relevant item, or the
            release to compare with has no embeddings.
        UsageError: for unknown metrics, slices or columns, or if a metric of
            the gate is missing.
    """
    if not len(candidate.ids):
        raise DataError("E_SPLIT_EMPTY", f"Expected embeddings of split {TEST!r}. Received none.")
    primary, protocol, seed = settings.primary, settings.protocol, settings.seed
    metrics = list(dict.fromkeys([*settings.metrics, primary, *numbers.ALWAYS]))
    result = numbers.evaluate(candidate, metrics, protocol)
    pairs = _pairs(candidate, protocol, seed)
    version, reason = baseline_facts.get("version"), str(baseline_facts.get("reason", ""))
    baseline_entry: dict[str, Any] = {"name": None, "version": version, "reason": reason}
    first = bool(baseline_facts.get("first", True))
    comparison = Comparison(metrics=result.values, first=first, baseline_reason=reason)
    curve = numbers.recall_curve(pairs, result.num_gallery)
    sections: dict[str, Any] = {}
    if version is not None:
        comparison, curve, baseline_entry, sections = _compare(candidate, result, baseline, baseline_facts, settings)
    comparison = replace(comparison, untrained=compare_untrained(candidate, result, untrained or {}, protocol))
    verdict = StatisticalGate(settings).judge(replace(comparison, index=index_trial, calibration=calibration))
    matrix = confusion_matrix(candidate, result)
    space = describe_space(candidate, result, pairs, groups=numbers.column(candidate, protocol.leave_out), seed=seed)
    report = {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "experiment": str(_experiment(context).get("name", "unnamed experiment")),
        "verdict": {
            "state": verdict.state,
            "case": verdict.case,
            "blessed": verdict.blessed,
            "reasons": _reasons(verdict, baseline_entry),
        },
        "primary": primary,
        "headline": list(dict.fromkeys([primary, *(name for name in _HEADLINE if name in result.values)])),
        "split": TEST,
        "counts": _counts(candidate, result),
        "evaluation_set": identify_set(candidate),
        "metrics": numbers.metric_entries(
            result, candidate.labels[result.query_rows], comparison, settings.minimum, seed=seed
        ),
        "baseline": baseline_entry,
        **({"comparison": dict(verdict.evidence)} if verdict.evidence else {}),
        **({"untrained": list(verdict.untrained)} if verdict.untrained else {}),
        **sections,
        "recall_curve": curve,
        "growth": numbers.growth_curve(pairs, result.num_gallery),
        "classes": numbers.class_entries(candidate, result, comparison),
        "confused_pairs": confused_pairs(candidate, result),
        **({"confusion": matrix} if matrix else {}),
        "galleries": numbers.galleries(candidate, result, pairs, each=_EACH, seed=seed),
        "similarities": numbers.similarity_bars(pairs),
        **space,
        "explorer": list_neighbors(candidate, result, first=space.get("map", {}).get("ids", ())),
        **(
            {"clustering": cluster_metrics(candidate.vectors, candidate.labels, seed=seed)}
            if settings.clustering
            else {}
        ),
        "thresholds": _thresholds(validation, seed),
        "calibration": dict(calibration or {"split": VALIDATION, "reason": "no match probability was fitted"}),
        **({"index_trial": dict(index_trial)} if index_trial else {}),
        "facts": dict(context.get("facts", {})),
        "reproduce": reproduction(context),
        **_changes(context, baseline_facts),
        **{key: context[key] for key in ("dataset", "index", "audit", "training", "spread") if context.get(key)},
        **_search(context),
    }
    return {**report, "identity": describe_identity(report, context, candidate.dimension)}


def _search(context: Mapping[str, Any]) -> dict[str, Any]:
    """The search, unless it is of a release with a record of an earlier format."""
    search = context.get("search", {})
    return {"search": describe_search(search)} if "space" in search else {}


def identify_set(table: "Embeddings") -> str:
    """Return a short digest of the ids, labels and roles of an evaluation set."""
    rows = sorted(zip(table.ids.tolist(), table.labels.tolist(), table.roles.tolist(), strict=True))
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()[:16]


def _compare(
    candidate: "Embeddings",
    result: RetrievalResult,
    baseline: "Embeddings | None",
    facts: Mapping[str, Any],
    settings: JudgeSettings,
) -> tuple[Comparison, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the comparison for the gate, the recall curves, and the report's section `baseline` and other sections."""
    primary, protocol, seed = settings.primary, settings.protocol, settings.seed
    version, published_for = facts["version"], facts.get("evaluation_set")
    if baseline is None:  # treating this as a first release would let any candidate pass
        raise DataError(
            "E_BASELINE_MISSING", f"Expected embeddings by release {version} to compare with. Received none."
        )
    name = f"release {version}"
    ours, theirs = numbers.align(candidate, baseline)
    changed = bool(published_for) and published_for != identify_set(candidate)
    if not numbers.can_compare(ours):
        comparison = Comparison(result.values, {}, {}, name, first=False, set_changed=changed, common_share=0.0)
        curve, sections = numbers.recall_curve(_pairs(candidate, protocol, seed), result.num_gallery), {}
    else:
        comparison, common, before = numbers.compare(candidate, result, ours, theirs, name, protocol)
        sizes = dict(zip(common.per_class["label"].tolist(), common.per_class["gallery"].tolist(), strict=True))
        columns = {key: values[common.query_rows] for key, values in ours.columns.items()}
        labels = ours.labels[common.query_rows]
        slices = make_slices(settings.slices, labels, sizes, comparison.per_query[primary], columns)
        comparison = replace(comparison, set_changed=changed, slices=slices)
        curve = numbers.recall_curve(_pairs(ours, protocol, seed), result.num_gallery)
        curve["baseline"] = numbers.recall_curve(_pairs(theirs, protocol, seed), result.num_gallery)["candidate"]
        sections = {
            "compatibility": compatibility(
                ours, theirs, metric=primary, max_drop=settings.max_drop, name=name, protocol=protocol
            ),
            "changed": numbers.changed_queries(ours, common, before, each=_EACH),
        }
    baseline_entry = {
        "name": name,
        "version": version,
        "reason": str(facts.get("reason", "")),
        "set_changed": changed,
        "common_queries": comparison.common_queries,
        "only_candidate": len(candidate.ids) - len(ours.ids),
        "only_baseline": len(baseline.ids) - len(ours.ids),
    }
    return comparison, curve, baseline_entry, sections


def _pairs(table: "Embeddings", protocol: QueryProtocol, seed: int) -> PairStatistics:
    groups = numbers.column(table, protocol.leave_out)
    return pair_statistics(table.vectors, table.labels, table.roles, seed=seed, groups=groups)


def _reasons(verdict: Verdict, baseline: Mapping[str, Any]) -> list[str]:
    """Return the reasons of the gate, with a note if only some images were compared."""
    reasons = list(verdict.reasons)
    if baseline["name"] and (baseline["only_candidate"] or baseline["only_baseline"]):
        reasons.append(
            f"Compared on common images only: {baseline['only_candidate']:,} have no embedding by {baseline['name']}, "
            f"{baseline['only_baseline']:,} have none by this model."
        )
    return reasons


def _counts(table: "Embeddings", result: RetrievalResult) -> dict[str, Any]:
    return {
        "queries": result.num_queries,
        "skipped": result.num_skipped,
        "gallery": result.num_gallery,
        "classes": len(result.per_class["label"]),
        "images": len(table.ids),
        "distance": "cosine similarity",
    }


def _thresholds(validation: "Embeddings | None", seed: int) -> dict[str, Any]:
    """Return the thresholds, or the reason why there are none."""
    if validation is None:
        return {"split": VALIDATION, "reason": f"there are no embeddings of split {VALIDATION!r} to choose them on"}
    pairs = _pairs(validation, QueryProtocol(), seed)
    return choose_thresholds(pairs, len(set(validation.labels[pairs.query_rows])), VALIDATION)


def reproduction(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is needed to reproduce the candidate."""
    facts = context.get("facts", {})
    return {
        **{key: facts[key] for key in ("command", "run_key", "data_version") if key in facts},
        "seed": _experiment(context).get("seed"),
        "libraries": library_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "same again": "data order, sampling and the choice of images follow the seed; the order of floating-point sums "
        "can differ between runs, so expect metrics to agree within about half a point",
    }


def _changes(context: Mapping[str, Any], baseline_facts: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` of the experiment since the release that is compared with, where its file is known."""
    before, now = baseline_facts.get("experiment"), _experiment(context)
    return {"changes": changed_settings(before, now)} if before and now else {}


def _experiment(context: Mapping[str, Any]) -> Mapping[str, Any]:
    return context.get("facts", {}).get("experiment", {})
