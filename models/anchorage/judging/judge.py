"""Judges a candidate by its embeddings: the report's numbers and the gate's verdict in one JSON-ready value."""

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
_HEADLINE = ("recall@1", "r_precision", "ndcg@10")  # beside the primary metric


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
    """Evaluates the candidate, compares it with the baseline, and asks the gate.

    Args:
        candidate: embeddings of the evaluation split.
        settings: what decides.
        baseline: the earlier release's embeddings of the same split.
        baseline_facts: `version` (None if there is no release), `reason` in
            words, `first` (whether nothing was published before),
            `evaluation_set` it was published with.
        untrained: baselines without training, name -> embeddings of the same
            images, such as "raw pixels".
        validation: embeddings of other classes than the evaluation split's,
            for the thresholds.
        context: what is known from elsewhere: `facts` (with `experiment`,
            the whole experiment file), `model`, `dataset` (counts per split),
            `index`, `audit`, `training` (`settings` as used, `recipe`, where
            each came from, `best_epoch`, `stop_reason`,
            `epochs`: one row each with `loss` and what validation gave),
            `search` (`objective`, `failed`, how many trials did, `trials`: of
            the others each `number`, `score` and `values` by the path of a
            setting), `spread` (over seeds, as for `format_spread`); all
            optional.
        index_trial: what `judge_index` found.
        calibration: what `calibrate_and_check` found.

    Returns:
        The report: see `write_report`. Keys whose numbers could not be had
        are absent.

    Raises:
        DataError: if the split is empty, no query has a right answer, or the
            release to compare with has no embeddings.
        UsageError: for unknown metrics, slices or columns, or metrics the gate
            needs and lacks.
    """
    if not len(candidate.ids):
        raise DataError("E_SPLIT_EMPTY", f"Expected embeddings of split {TEST!r}. Received none.")
    primary, protocol, seed = settings.primary, settings.protocol, settings.seed
    wanted = list(dict.fromkeys([*settings.metrics, primary, *numbers.ALWAYS]))
    result = numbers.evaluate(candidate, wanted, protocol)
    pairs = _pairs(candidate, protocol, seed)
    version, reason = baseline_facts.get("version"), str(baseline_facts.get("reason", ""))
    told: dict[str, Any] = {"name": None, "version": version, "reason": reason}
    first = bool(baseline_facts.get("first", True))
    comparison = Comparison(metrics=result.values, first=first, baseline_reason=reason)
    curve = numbers.recall_curve(pairs, result.num_gallery)
    compared: dict[str, Any] = {}
    if version is not None:
        comparison, curve, told, compared = _compare(candidate, result, baseline, baseline_facts, settings)
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
            "reasons": _reasons(verdict, told),
        },
        "primary": primary,
        "headline": list(dict.fromkeys([primary, *(name for name in _HEADLINE if name in result.values)])),
        "split": TEST,
        "counts": _counts(candidate, result),
        "evaluation_set": identify_set(candidate),
        "metrics": numbers.metric_entries(
            result, candidate.labels[result.query_rows], comparison, settings.minimum, seed=seed
        ),
        "baseline": told,
        **({"comparison": dict(verdict.evidence)} if verdict.evidence else {}),
        **({"untrained": list(verdict.untrained)} if verdict.untrained else {}),
        **compared,
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
        "calibration": dict(calibration or {"split": VALIDATION, "reason": "none was fitted"}),
        **({"index_trial": dict(index_trial)} if index_trial else {}),
        "facts": dict(context.get("facts", {})),
        "reproduce": _reproduction(context),
        **_changes(context, baseline_facts),
        **{
            key: context[key]
            for key in ("dataset", "index", "audit", "training", "search", "spread")
            if context.get(key)
        },
    }
    return {**report, "identity": describe_identity(report, context, candidate.dimension)}


def identify_set(table: "Embeddings") -> str:
    """Short digest of which images were asked for and found, under which labels."""
    rows = sorted(zip(table.ids.tolist(), table.labels.tolist(), table.roles.tolist(), strict=True))
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()[:16]


def _compare(
    candidate: "Embeddings",
    result: RetrievalResult,
    baseline: "Embeddings | None",
    facts: Mapping[str, Any],
    settings: JudgeSettings,
) -> tuple[Comparison, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The comparison for the gate, the recall curve with the baseline's, what to tell of the baseline, further keys."""
    primary, protocol, seed = settings.primary, settings.protocol, settings.seed
    version, published_for = facts["version"], facts.get("evaluation_set")
    if baseline is None:  # to call this a first release would let any candidate pass
        raise DataError(
            "E_BASELINE_MISSING", f"Expected embeddings by release {version} to compare with. Received none."
        )
    name = f"release {version}"
    ours, theirs = numbers.align(candidate, baseline)
    changed = bool(published_for) and published_for != identify_set(candidate)
    if not numbers.can_compare(ours):
        comparison = Comparison(result.values, {}, {}, name, first=False, set_changed=changed, common_share=0.0)
        curve, further = numbers.recall_curve(_pairs(candidate, protocol, seed), result.num_gallery), {}
    else:
        comparison, common, before = numbers.compare(candidate, result, ours, theirs, name, protocol)
        sizes = dict(zip(common.per_class["label"].tolist(), common.per_class["gallery"].tolist(), strict=True))
        columns = {key: values[common.query_rows] for key, values in ours.columns.items()}
        labels = ours.labels[common.query_rows]
        cut = make_slices(settings.slices, labels, sizes, comparison.per_query[primary], columns)
        comparison = replace(comparison, set_changed=changed, slices=cut)
        curve = numbers.recall_curve(_pairs(ours, protocol, seed), result.num_gallery)
        curve["baseline"] = numbers.recall_curve(_pairs(theirs, protocol, seed), result.num_gallery)["candidate"]
        further = {
            "compatibility": compatibility(
                ours, theirs, metric=primary, max_drop=settings.max_drop, name=name, protocol=protocol
            ),
            "changed": numbers.changed_queries(ours, common, before, each=_EACH),
        }
    told = {
        "name": name,
        "version": version,
        "reason": str(facts.get("reason", "")),
        "set_changed": changed,
        "common_queries": comparison.common_queries,
        "only_candidate": len(candidate.ids) - len(ours.ids),
        "only_baseline": len(baseline.ids) - len(ours.ids),
    }
    return comparison, curve, told, further


def _pairs(table: "Embeddings", protocol: QueryProtocol, seed: int) -> PairStatistics:
    groups = numbers.column(table, protocol.leave_out)
    return pair_statistics(table.vectors, table.labels, table.roles, seed=seed, groups=groups)


def _reasons(verdict: Verdict, told: Mapping[str, Any]) -> list[str]:
    """The gate's reasons, and what a reader must know about the comparison."""
    reasons = list(verdict.reasons)
    if told["name"] and (told["only_candidate"] or told["only_baseline"]):
        reasons.append(
            f"Compared on common images only: {told['only_candidate']:,} have no embedding by {told['name']}, "
            f"{told['only_baseline']:,} have none by this model."
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
    """Thresholds, or why there are none."""
    if validation is None:
        return {"split": VALIDATION, "reason": f"there are no embeddings of split {VALIDATION!r} to choose one on"}
    return choose_thresholds(_pairs(validation, QueryProtocol(), seed), VALIDATION)


def _reproduction(context: Mapping[str, Any]) -> dict[str, Any]:
    facts = context.get("facts", {})
    return {
        **{key: facts[key] for key in ("command", "run_key", "data_version") if key in facts},
        "seed": _experiment(context).get("seed"),
        "libraries": library_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "same again": "data order, sampling and the choice of pictures follow the seed; the order in which processors "
        "add up numbers may differ, so expect metrics equal to about half a point",
    }


def _changes(context: Mapping[str, Any], baseline_facts: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` of the experiment since the release that is compared with, where its file is known."""
    before, now = baseline_facts.get("experiment"), _experiment(context)
    return {"changes": changed_settings(before, now)} if before and now else {}


def _experiment(context: Mapping[str, Any]) -> Mapping[str, Any]:
    return context.get("facts", {}).get("experiment", {})
