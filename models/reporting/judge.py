"""Judges a candidate by its embeddings: the report's numbers and the gate's verdict in one JSON-ready value."""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from models.errors import DataError
from models.release.libraries import library_versions
from models.reporting import numbers
from models.reporting.gate import Comparison, Gate, Verdict
from models.reporting.identity import describe_identity
from models.reporting.thresholds import choose_thresholds
from models.retrieval.metrics import RetrievalResult, evaluate_retrieval
from models.retrieval.pairs import PairStatistics, pair_statistics

if TYPE_CHECKING:
    from models.retrieval.table import Embeddings

FORMAT = 1
_EACH = 8  # queries per gallery
_HEADLINE = ("recall@1", "r_precision", "ndcg@10")  # beside the primary metric


def judge_candidate(
    candidate: "Embeddings",
    *,
    split: str,
    metrics: Sequence[str],
    primary: str,
    minimum: Mapping[str, float],
    gate: Gate,
    baseline: "Embeddings | None" = None,
    baseline_facts: Mapping[str, Any],
    validation: "Embeddings | None" = None,
    validation_split: str = "val",
    context: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluates the candidate, compares it with the baseline, and asks the gate.

    Args:
        candidate: embeddings of the evaluation split.
        split: that split's name.
        metrics: names of the metrics to report, such as `"recall@1"`.
        primary: the metric that decides.
        minimum: floors of the gate, for the metrics table.
        gate: gives the verdict.
        baseline: the earlier release's embeddings of the same split.
        baseline_facts: `version` (None if there is no release), `reason` in
            words, `evaluation_set` it was published with.
        validation: embeddings of other classes than the evaluation split's,
            for the thresholds.
        validation_split: that split's name.
        context: what is known from elsewhere: `facts` (with `experiment`,
            the whole experiment file), `model`, `dataset` (counts per split),
            `index`, `audit`, `training` (`settings` as used, `best_epoch`,
            `epochs`: one row each with `loss` and what validation gave); all
            optional.

    Returns:
        The report: see `write_report`. Keys whose numbers could not be had
        are absent.

    Raises:
        DataError: if the split is empty, no query has a right answer, or the
            release to compare with has no embeddings.
        UsageError: for unknown metrics, or metrics the gate needs and lacks.
    """
    if not len(candidate.ids):
        raise DataError("E_SPLIT_EMPTY", f"Expected embeddings of split {split!r}. Received none.")
    wanted = list(dict.fromkeys([*metrics, primary, *numbers.ALWAYS]))
    seed = int(_experiment(context).get("seed", 0))
    result = evaluate_retrieval(candidate.vectors, candidate.labels, candidate.roles, metrics=wanted)
    pairs = _pairs(candidate, seed)
    comparison, curve, told = _compare(candidate, result, pairs, baseline, baseline_facts, seed)
    verdict = gate.judge(comparison)
    report = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "experiment": str(_experiment(context).get("name", "unnamed experiment")),
        "verdict": {"state": verdict.state, "blessed": verdict.blessed, "reasons": _reasons(verdict, told)},
        "primary": primary,
        "headline": list(dict.fromkeys([primary, *(name for name in _HEADLINE if name in result.values)])),
        "split": split,
        "counts": _counts(candidate, result),
        "evaluation_set": identify_set(candidate),
        "metrics": numbers.metric_entries(result, comparison, minimum),
        "baseline": told,
        "recall_curve": curve,
        "classes": numbers.class_entries(candidate, result, comparison),
        "galleries": numbers.galleries(candidate, result, pairs, each=_EACH, seed=seed),
        "similarities": numbers.similarity_bars(pairs),
        "thresholds": _thresholds(validation, validation_split, seed),
        "facts": dict(context.get("facts", {})),
        "reproduce": _reproduction(context),
        **{key: context[key] for key in ("dataset", "index", "audit", "training") if context.get(key)},
    }
    return {**report, "identity": describe_identity(report, context, candidate.dimension)}


def identify_set(table: "Embeddings") -> str:
    """Short digest of which images were asked for and found, under which labels."""
    rows = sorted(zip(table.ids.tolist(), table.labels.tolist(), table.roles.tolist(), strict=True))
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()[:16]


def _compare(
    candidate: "Embeddings",
    result: RetrievalResult,
    pairs: PairStatistics,
    baseline: "Embeddings | None",
    facts: Mapping[str, Any],
    seed: int,
) -> tuple[Comparison, dict[str, Any], dict[str, Any]]:
    """The comparison for the gate, the recall curve with the baseline's, and what to tell about the baseline."""
    version, published_for = facts.get("version"), facts.get("evaluation_set")
    told = {"name": None, "version": version, "reason": str(facts.get("reason", ""))}
    curve = numbers.recall_curve(pairs, result.num_gallery)
    if version is None:
        return Comparison(metrics=result.values), curve, told
    if baseline is None:  # to call this a first release would let any candidate pass
        raise DataError(
            "E_BASELINE_MISSING", f"Expected embeddings by release {version} to compare with. Received none."
        )
    name = f"release {version}"
    ours, theirs = numbers.align(candidate, baseline)
    comparison = numbers.compare(candidate, result, ours, theirs, name)
    curve = numbers.recall_curve(_pairs(ours, seed), result.num_gallery)
    curve["baseline"] = numbers.recall_curve(_pairs(theirs, seed), result.num_gallery)["candidate"]
    return (
        comparison,
        curve,
        {
            **told,
            "name": name,
            "set_changed": bool(published_for) and published_for != identify_set(candidate),
            "common_queries": comparison.common_queries,
            "only_candidate": len(candidate.ids) - len(ours.ids),
            "only_baseline": len(baseline.ids) - len(ours.ids),
        },
    )


def _pairs(table: "Embeddings", seed: int) -> PairStatistics:
    return pair_statistics(table.vectors, table.labels, table.roles, seed=seed)


def _reasons(verdict: Verdict, told: Mapping[str, Any]) -> list[str]:
    """The gate's reasons, and what a reader must know about the comparison."""
    reasons = list(verdict.reasons)
    if told["name"] and (told["only_candidate"] or told["only_baseline"]):
        reasons.append(
            f"Compared on common images only: {told['only_candidate']:,} have no embedding by {told['name']}, "
            f"{told['only_baseline']:,} have none by this model."
        )
    if told["name"] and told["set_changed"]:
        reasons.append(
            f"The evaluation images changed since {told['name']} was published: its numbers here are new, "
            "computed on today's images."
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


def _thresholds(validation: "Embeddings | None", split: str, seed: int) -> dict[str, Any]:
    if validation is None:
        return {"split": split, "reason": f"there are no embeddings of split {split!r} to choose one on"}
    return choose_thresholds(_pairs(validation, seed), split)


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


def _experiment(context: Mapping[str, Any]) -> Mapping[str, Any]:
    return context.get("facts", {}).get("experiment", {})
