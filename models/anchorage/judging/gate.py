"""The gate: decides whether a candidate may replace the current release, and gives the reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anchorage.errors import UsageError
from anchorage.judging.bootstrap import Differences, compare_by_classes, holm
from anchorage.judging.settings import JudgeSettings

_NAMES = {"map@r": "MAP@R", "r_precision": "R-precision", "map": "mAP", "mrr": "MRR"}
_ROUNDING = 1e-9  # a drop of exactly `max_drop` is allowed, and equal values are not better
_LEAST_GAIN = 5e-4  # less, which is shown as 0.0 points, is no improvement
_FEW_CLASSES, _FEW_QUERIES = 5, 20  # smaller slices are reported but not judged
_LEVEL = 0.95  # of the intervals in the report
_LEAST_COMMON = 0.5  # share of the queries that the baseline must have embedded, too
_WIDE = 30  # with fewer classes, a reason mentions the wide interval


@dataclass(frozen=True)
class UntrainedBaseline:
    """Results of a baseline without training on the queries of the candidate.

    Attributes:
        name: name of the baseline, such as "raw pixels".
        per_query: metric name -> (candidate, baseline), each `(Q,)` in [0, 1].
        query_labels: `(Q,)` class of each query.
    """

    name: str
    per_query: Mapping[str, tuple[np.ndarray, np.ndarray]]
    query_labels: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Input of the gate.

    Attributes:
        metrics: metrics of the candidate on all its queries, in [0, 1].
        common: metrics of the candidate on the queries shared with the
            baseline; equal to `metrics` if all are shared.
        baseline: metrics of the baseline on the shared queries; None if there
            is no baseline.
        baseline_name: name of the baseline, such as "release 3".
        common_queries: number of shared queries.
        per_query: metric name -> (candidate, baseline), each `(Q,)`, over the
            shared queries.
        query_labels: `(Q,)` class of each shared query.
        first: whether there are no earlier releases.
        baseline_reason: why there is no baseline although there are earlier
            releases.
        set_changed: whether the evaluation images differ from those that the
            baseline was published with.
        common_share: share of the candidate's queries that are shared.
        slices: name -> `(Q,)` bool, the shared queries of the slice.
        index: result of `judge_index`; None if there is no index.
        calibration: result of `calibrate_and_check`; None if not computed.
        untrained: baselines without training that the candidate must beat.
    """

    metrics: Mapping[str, float]
    common: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] | None = None
    baseline_name: str = ""
    common_queries: int = 0
    per_query: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    query_labels: np.ndarray | None = None
    first: bool = True
    baseline_reason: str = ""
    set_changed: bool = False
    common_share: float = 1.0
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    index: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    untrained: Sequence[UntrainedBaseline] = ()


@dataclass(frozen=True)
class Verdict:
    """Decision of the gate, with its reasons.

    Attributes:
        state: "FIRST" (good enough, and no earlier release to compare with), "SHIP", "HOLD" or "FORCED" (published
            against the gate).
        reasons: sentences for the user, decisive ones first.
        case: the deciding rule: "first_run", "no_baseline", "not_worse", "changed_test_set" (not worse, on other
            images than before), "training_does_not_help", "below_floor", "worse", "worse_on_slice", "index",
            "calibration", "too_few_common" or "forced".
        evidence: JSON-ready numbers behind the decision, see `StatisticalGate.judge`.
        untrained: JSON-ready comparison with each baseline without training, see there.
    """

    state: str
    reasons: tuple[str, ...]
    case: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    untrained: Sequence[Mapping[str, Any]] = ()

    @property
    def blessed(self) -> bool:
        return self.state != "HOLD"


@dataclass(frozen=True)
class StatisticalGate:
    """Passes a candidate that beats the untrained baselines, reaches its floors and is not worse than the release.

    An untrained baseline is beaten if the confidence interval of the difference in the primary metric lies above 0. All
    of them must be beaten, so no correction for multiple tests is needed. Compared with the current release, the lower
    confidence bound of the difference, from a paired bootstrap over classes, must be at least `-max_drop`. A slice
    fails if its loss is significantly greater than its own margin: the p-value, corrected by Holm's method for the
    number of slices, is less than `1 - confidence`.

    Args:
        settings: margins, floors and confidence, see `JudgeSettings`.
    """

    settings: JudgeSettings

    def judge(self, comparison: Comparison) -> Verdict:
        """Judge a candidate.

        The evidence of the verdict is empty without a baseline. Otherwise it has `resamples`, `seed`, `confidence` (of
        `lower_bound`), `level` (of the intervals), `primary`, `margin`, `lower_bound`, `queries`, `classes`, `metrics`
        (name -> `candidate`, `baseline`, `difference`, `low`, `high`, `queries`, `classes`) and `slices`, greatest loss
        first (the same keys with `name`, `margin`, `p`, `p_holm`, `judged` and `worse`). `untrained` of the verdict has
        one entry per baseline without training: `name`, `level` of its intervals, `metrics` as above, and `better`,
        whether the candidate beats it.

        Raises:
            UsageError: if a metric of the gate is missing.
        """
        settings = self.settings
        if absent := sorted({*settings.minimum, settings.primary} - set(comparison.metrics)):
            raise UsageError(
                "E_GATE",
                f"The gate needs {absent}. Received metrics: {sorted(comparison.metrics)}. Evaluate these too.",
            )
        below_floor, above_floor = self._check_floors(comparison.metrics)
        failures = [("below_floor", below_floor)] if below_floor else []
        for part, result in (("index", comparison.index), ("calibration", comparison.calibration)):
            if result and result.get("faults"):
                failures.append((part, list(result["faults"])))
        entries, not_better, better = self._compare_untrained(comparison.untrained)
        if not_better:
            failures.insert(0, ("training_does_not_help", not_better))
        if comparison.baseline is None:
            case = "first_run" if comparison.first else "no_baseline"
            remark = "There is no earlier release to compare with."
            if not comparison.first:
                checked = "the floors and the baselines without training" if entries else "the floors"
                remark = (
                    f"No baseline, although there are earlier releases: {comparison.baseline_reason} "
                    f"Only {checked} were checked."
                )
            verdict = self._conclude(failures, [*better, *above_floor, remark], case, {})
        else:
            evidence, worse, passed = self._compare(comparison)
            failures = worse[:1] + failures + worse[1:]
            case = "not_worse"
            if comparison.set_changed:
                case = "changed_test_set"
                passed.append(
                    f"The evaluation images are not those {comparison.baseline_name} was published with; "
                    "both models were evaluated again on the images they share."
                )
            verdict = self._conclude(failures, passed + better + above_floor, case, evidence)
        return replace(verdict, untrained=entries)

    def _conclude(
        self, failures: list[tuple[str, list[str]]], passed: list[str], case: str, evidence: Mapping
    ) -> Verdict:
        settings = self.settings
        if not failures:
            return Verdict("FIRST" if case in {"first_run", "no_baseline"} else "SHIP", tuple(passed), case, evidence)
        reasons = [reason for _, sentences in failures for reason in sentences]
        if settings.force:
            forced = f"Published by force, against the gate: {settings.force.rstrip('.')}."
            return Verdict("FORCED", (forced, *reasons, *passed), "forced", evidence)
        return Verdict("HOLD", (*reasons, *passed), failures[0][0], evidence)

    def _compare(self, comparison: Comparison) -> tuple[dict[str, Any], list[tuple[str, list[str]]], list[str]]:
        """Compare with the release: evidence, failures by case, and sentences about what passed."""
        settings = self.settings
        if comparison.query_labels is None or comparison.common_share < _LEAST_COMMON:
            reason = (
                f"Only {100 * comparison.common_share:.0f} % of the queries were embedded by "
                f"{comparison.baseline_name}, too few to compare ({100 * _LEAST_COMMON:g} % are needed)."
            )
            return {}, [("too_few_common", [reason])], []
        pairs = {f"metric {name}": values for name, values in comparison.per_query.items()}
        masks = dict.fromkeys(pairs, np.ones(len(comparison.query_labels), bool))
        for name, mask in comparison.slices.items():
            pairs[f"slice {name}"], masks[f"slice {name}"] = comparison.per_query[settings.primary], mask
        differences = compare_by_classes(
            pairs, comparison.query_labels, masks, resamples=settings.resamples, seed=settings.seed
        )
        at = differences.names.index(f"metric {settings.primary}")
        bound = differences.lower_bound(at, settings.confidence)
        slices = self._judge_slices(differences, list(comparison.slices))
        evidence = {
            "resamples": settings.resamples,
            "seed": settings.seed,
            "confidence": settings.confidence,
            "level": _LEVEL,
            "primary": settings.primary,
            "margin": settings.max_drop,
            "lower_bound": bound,
            "classes": int(differences.classes[at]),
            "queries": comparison.common_queries,
            "metrics": {
                name: _entry(differences, differences.names.index(f"metric {name}")) for name in comparison.per_query
            },
            "slices": slices,
        }
        change = (
            f"{metric_name(settings.primary)} {points(differences.difference(at))} points against "
            f"{comparison.baseline_name} on the same {comparison.common_queries:,} queries of "
            f"{differences.classes[at]:,} classes"
        )
        lowest = points(min(bound, differences.difference(at)))
        certainty = f"with {100 * settings.confidence:g} % confidence at worst {lowest}"
        allowed = f"a loss of up to {100 * settings.max_drop:g} points is allowed"
        failures: list[tuple[str, list[str]]] = []
        passed = []
        if bound >= -settings.max_drop - _ROUNDING:  # false for NaN, which never passes
            passed.append(f"{change}, {certainty} ({allowed}).")
        else:
            failures.append(("worse", [f"{change}, {certainty}: worse than allowed ({allowed})."]))
        if worse := [_describe_slice(entry) for entry in slices if entry["worse"]]:
            failures.append(("worse_on_slice", worse))
        elif judged := sum(entry["judged"] for entry in slices):
            passed.append(f"None of {judged} slices is significantly worse than its margin allows.")
        return evidence, failures, passed

    def _compare_untrained(
        self, baselines: Sequence[UntrainedBaseline]
    ) -> tuple[list[dict[str, Any]], list[str], list[str]]:
        """Compare with untrained baselines: evidence, and sentences about those not beaten and those beaten."""
        settings = self.settings
        entries: list[dict[str, Any]] = []
        not_better, better = [], []
        for baseline in baselines:
            masks = dict.fromkeys(baseline.per_query, np.ones(len(baseline.query_labels), bool))
            differences = compare_by_classes(
                baseline.per_query,
                baseline.query_labels,
                masks,
                resamples=settings.resamples,
                seed=settings.seed,
            )
            metrics = {name: _entry(differences, at, settings.confidence) for at, name in enumerate(differences.names)}
            entry = metrics[settings.primary]
            gained = entry["low"] > _ROUNDING and entry["difference"] >= _LEAST_GAIN
            beaten = bool(entry["classes"] >= _FEW_CLASSES and gained)
            entries.append({"name": baseline.name, "level": settings.confidence, "better": beaten, "metrics": metrics})
            if beaten:
                better.append(f"the {baseline.name} ({100 * entry['baseline']:.1f} %; {_interval(entry)} points)")
            else:
                not_better.append(self._describe_not_better(baseline.name, entry))
        if better:
            value = (
                f"{metric_name(settings.primary)} {100 * entries[0]['metrics'][settings.primary]['candidate']:.1f} %"
            )
            *others, last = better
            names = f"{', '.join(others)} and {last}" if others else last
            better = [f"{value} is better, with {100 * settings.confidence:g} % confidence, than {names}."]
        return entries, not_better, better

    def _describe_not_better(self, name: str, entry: Mapping[str, Any]) -> str:
        settings = self.settings
        significantly = "significantly " if entry["difference"] >= _LEAST_GAIN else ""
        reason = (
            f"{metric_name(settings.primary)} {100 * entry['candidate']:.1f} % is not {significantly}better than the "
            f"{name}, {100 * entry['baseline']:.1f} %: difference {points(entry['difference'])} points, "
            f"{100 * settings.confidence:g} % interval {_interval(entry)}, on {entry['queries']:,} queries of "
            f"{entry['classes']:,} classes."
        )
        if entry["classes"] < _FEW_CLASSES:
            return f"{reason} Fewer than {_FEW_CLASSES} classes cannot show an improvement: test on more classes."
        if significantly and entry["classes"] < _WIDE:
            return f"{reason} With so few classes the interval is wide: test on more classes."
        return reason

    def _judge_slices(self, differences: Differences, names: list[str]) -> list[dict[str, Any]]:
        """Judge each slice; return one entry per slice, greatest loss first."""
        settings = self.settings
        entries = []
        for name in names:
            at = differences.names.index(f"slice {name}")
            if not differences.queries[at]:
                continue
            drops = settings.slice_drops
            margin = drops.get(name, drops.get(name.partition("=")[0], drops.get("", settings.max_drop)))
            judged = bool(differences.classes[at] >= _FEW_CLASSES and differences.queries[at] >= _FEW_QUERIES)
            entry = {"name": name, **_entry(differences, at), "margin": margin, "judged": judged}
            entries.append({**entry, "p": differences.p_worse(at, margin) if judged else None})
        tested = [entry for entry in entries if entry["judged"]]
        for entry, p in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
            entry["p_holm"] = p
        for entry in entries:
            entry["worse"] = bool(entry["judged"] and entry["p_holm"] < 1 - settings.confidence)
        return sorted(entries, key=lambda entry: (entry["difference"], entry["name"]))

    def _check_floors(self, metrics: Mapping[str, float]) -> tuple[list[str], list[str]]:
        """Return sentences about the metrics below their floors, and about those at or above."""
        below, above = [], []
        for name, floor in self.settings.minimum.items():
            value = metrics[name]
            if value >= floor:  # false for NaN, which never passes
                above.append(f"{metric_name(name)} is {100 * value:.1f} %, at or above its floor of {100 * floor:g} %.")
            else:
                below.append(f"{metric_name(name)} is {100 * value:.1f} %, below its floor of {100 * floor:g} %.")
        return below, above


def metric_name(name: str) -> str:
    """Return a metric's name as it is written in the literature."""
    return _NAMES.get(name, name.replace("ndcg", "nDCG"))


def points(difference: float) -> str:
    """Format a difference of two shares in percentage points, with sign: "+1.2"; "±0.0" if it rounds to zero."""
    text = f"{100 * difference:+.1f}"
    return "±0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")  # noqa: RUF001


def _entry(differences: Differences, at: int, level: float = _LEVEL) -> dict[str, Any]:
    low, high = differences.interval(at, level)
    return {
        "queries": int(differences.queries[at]),
        "classes": int(differences.classes[at]),
        "candidate": float(differences.candidate[at]),
        "baseline": float(differences.baseline[at]),
        "difference": differences.difference(at),
        "low": low,
        "high": high,
    }


def _interval(entry: Mapping[str, Any]) -> str:
    """Format the interval of a difference, in percentage points."""
    return f"{points(entry['low'])} to {points(entry['high'])}"


def _describe_slice(entry: Mapping[str, Any]) -> str:
    return (
        f"Worse on the slice {entry['name']}: {points(entry['difference'])} points on {entry['queries']:,} queries of "
        f"{entry['classes']:,} classes, where a loss of {100 * entry['margin']:g} is allowed "
        f"(p = {entry['p_holm']:.3f}, corrected by Holm's method)."
    )
