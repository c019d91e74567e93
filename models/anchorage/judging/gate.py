"""The gate: may a candidate replace the release in use? An answer with its reasons in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anchorage.errors import UsageError
from anchorage.judging.bootstrap import Differences, compare_by_classes, holm
from anchorage.judging.settings import JudgeSettings

_NAMES = {"map@r": "MAP@R", "r_precision": "R-precision", "map": "mAP", "mrr": "MRR"}
_ROUNDING = 1e-9  # a drop of exactly `max_drop` is allowed, and equal values are not better
_FEW_CLASSES, _FEW_QUERIES = 5, 20  # below either, a slice is shown and not judged
_LEVEL = 0.95  # of the intervals that are shown
_LEAST_COMMON = 0.5  # share of the queries that the baseline must have answered, too
_WIDE = 30  # classes below which an interval is wide enough to say so


@dataclass(frozen=True)
class Untrained:
    """A baseline that learned nothing from the training images, on the queries of the candidate.

    Attributes:
        name: such as "raw pixels".
        per_query: metric name -> (candidate, baseline), each `(Q,)` in [0, 1].
        query_labels: `(Q,)` class of each query.
    """

    name: str
    per_query: Mapping[str, tuple[np.ndarray, np.ndarray]]
    query_labels: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """What a gate may look at.

    Attributes:
        metrics: the candidate's metrics on all its queries, in [0, 1].
        common: the candidate's metrics on the queries shared with the
            baseline; equal to `metrics` where all are shared.
        baseline: the baseline's metrics on those queries; None if there is
            no baseline.
        baseline_name: such as "release 3".
        common_queries: how many queries both answered.
        per_query: metric name -> (candidate, baseline), each `(Q,)`, over the
            common queries.
        query_labels: `(Q,)` class of each common query.
        first: whether nothing was published before; where there is no
            baseline all the same, `baseline_reason` says why.
        baseline_reason: in words.
        set_changed: whether the evaluation images are others than those the
            baseline was published with.
        common_share: share of the candidate's queries that are common.
        slices: name -> `(Q,)` bool, the common queries of the slice.
        index: what `judge_index` found; None if there is no index.
        calibration: what `calibrate_and_check` found; None if it was not asked.
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
    untrained: Sequence[Untrained] = ()


@dataclass(frozen=True)
class Verdict:
    """FIRST (nothing to compare with, good enough), SHIP, HOLD or FORCED (held, published all the same), with reasons.

    Attributes:
        state: one of the four.
        reasons: sentences for a person, the decisive ones first.
        case: what decided: "first_run", "no_baseline", "not_worse", "changed_test_set" (not worse, on other images
            than before), "training_does_not_help", "below_floor", "worse", "worse_on_slice", "index", "calibration",
            "too_few_common" or "forced".
        evidence: the numbers behind it, JSON-ready: see `StatisticalGate.judge`.
        untrained: the comparison with each baseline without training, JSON-ready: see there.
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
    """Blesses a candidate that beats its baselines without training, reaches its floors and keeps up with the release.

    To beat a baseline without training, the whole interval of the primary metric's difference must lie above 0, at
    `confidence`. All of them must be beaten, so their number needs no correction. Its difference to the earlier
    release is bounded from below by a paired bootstrap over classes; the bound must not lie under `-max_drop`. A slice
    holds the candidate where it is clearly worse than its own margin allows: the chance of such a loss by luck,
    corrected after Holm for the number of slices, is below `1 - confidence`.

    Args:
        settings: margins, floors and confidence, see `JudgeSettings`.
    """

    settings: JudgeSettings

    def judge(self, comparison: Comparison) -> Verdict:
        """The verdict; its evidence is empty where there is no baseline.

        Otherwise it holds `resamples`, `seed`, `confidence` (of `lower_bound`), `level` (of the intervals), `primary`,
        `margin`, `lower_bound`, `queries`, `classes`, `metrics` (name -> `candidate`, `baseline`, `difference`, `low`,
        `high`, `queries`, `classes`) and `slices`, greatest loss first (the same with `name`, `margin`, `p`, `p_holm`,
        `judged` and `worse`). `untrained` of the verdict has one entry a baseline without training: `name`, `level` of
        its intervals, `metrics` as above, and `better`, whether the candidate beats it.

        Raises:
            UsageError: if a metric of the gate was not measured.
        """
        settings = self.settings
        if absent := sorted({*settings.minimum, settings.primary} - set(comparison.metrics)):
            raise UsageError(
                "E_GATE", f"The gate needs {absent}. Received metrics: {sorted(comparison.metrics)}. Evaluate them too."
            )
        missed, kept = self._check_floors(comparison.metrics)
        held = [("below_floor", missed)] if missed else []
        for part, measured in (("index", comparison.index), ("calibration", comparison.calibration)):
            if measured and measured.get("faults"):
                held.append((part, list(measured["faults"])))
        entries, unbeaten, beaten = self._compare_untrained(comparison.untrained)
        if unbeaten:
            held.insert(0, ("training_does_not_help", unbeaten))
        if comparison.baseline is None:
            case = "first_run" if comparison.first else "no_baseline"
            told = ["There is no earlier release to compare with."]
            if not comparison.first:
                checked = "the floors and the baselines without training" if entries else "the floors"
                told = [
                    f"No baseline, though there were releases: {comparison.baseline_reason} "
                    f"Only {checked} were checked."
                ]
            verdict = self._conclude(held, beaten + kept + told, case, {})
        else:
            found, worse, passed = self._compare(comparison)
            held = worse[:1] + held + worse[1:]
            case = "not_worse"
            if comparison.set_changed:
                case = "changed_test_set"
                passed.append(
                    f"The evaluation images are not those {comparison.baseline_name} was published with; "
                    "both models were measured anew on the images they share."
                )
            verdict = self._conclude(held, passed + beaten + kept, case, found)
        return replace(verdict, untrained=entries)

    def _conclude(self, held: list[tuple[str, list[str]]], passed: list[str], case: str, evidence: Mapping) -> Verdict:
        settings = self.settings
        if not held:
            return Verdict("FIRST" if case in {"first_run", "no_baseline"} else "SHIP", tuple(passed), case, evidence)
        reasons = [reason for _, told in held for reason in told]
        if settings.force:
            forced = f"Published by force, against the gate: {settings.force.rstrip('.')}."
            return Verdict("FORCED", (forced, *reasons, *passed), "forced", evidence)
        return Verdict("HOLD", (*reasons, *passed), held[0][0], evidence)

    def _compare(self, comparison: Comparison) -> tuple[dict[str, Any], list[tuple[str, list[str]]], list[str]]:
        """Evidence, what speaks against the candidate by case, and what does not."""
        settings = self.settings
        if comparison.query_labels is None or comparison.common_share < _LEAST_COMMON:
            few = (
                f"Only {100 * comparison.common_share:.0f} % of the queries were answered by "
                f"{comparison.baseline_name}, too few to compare ({100 * _LEAST_COMMON:g} % are needed)."
            )
            return {}, [("too_few_common", [few])], []
        pairs = {f"metric {name}": values for name, values in comparison.per_query.items()}
        everything = np.ones(len(comparison.query_labels), bool)
        masks = dict.fromkeys(pairs, everything)
        for name, mask in comparison.slices.items():
            pairs[f"slice {name}"], masks[f"slice {name}"] = comparison.per_query[settings.primary], mask
        drawn = compare_by_classes(
            pairs, comparison.query_labels, masks, resamples=settings.resamples, seed=settings.seed
        )
        at = drawn.names.index(f"metric {settings.primary}")
        bound = drawn.lower_bound(at, settings.confidence)
        slices = self._judge_slices(drawn, list(comparison.slices))
        evidence = {
            "resamples": settings.resamples,
            "seed": settings.seed,
            "confidence": settings.confidence,
            "level": _LEVEL,
            "primary": settings.primary,
            "margin": settings.max_drop,
            "lower_bound": bound,
            "classes": int(drawn.classes[at]),
            "queries": comparison.common_queries,
            "metrics": {name: _entry(drawn, drawn.names.index(f"metric {name}")) for name in comparison.per_query},
            "slices": slices,
        }
        change = (
            f"{metric_name(settings.primary)} {points(drawn.difference(at))} points against {comparison.baseline_name}"
        )
        change += f" on the same {comparison.common_queries:,} queries of {drawn.classes[at]:,} classes"
        sure = f"with {100 * settings.confidence:g} % confidence at worst {points(min(bound, drawn.difference(at)))}"
        allowed = f"a loss of up to {100 * settings.max_drop:g} points is allowed"
        against: list[tuple[str, list[str]]] = []
        passed = []
        if bound >= -settings.max_drop - _ROUNDING:  # false for nan, which is never good enough
            passed.append(f"{change}, {sure} ({allowed}).")
        else:
            against.append(("worse", [f"{change}, {sure}: worse than allowed ({allowed})."]))
        if told := [_describe_slice(entry) for entry in slices if entry["worse"]]:
            against.append(("worse_on_slice", told))
        elif judged := sum(entry["judged"] for entry in slices):
            passed.append(f"None of {judged} slices is clearly worse than its margin allows.")
        return evidence, against, passed

    def _compare_untrained(self, baselines: Sequence[Untrained]) -> tuple[list[dict[str, Any]], list[str], list[str]]:
        """Evidence, and sentences about the baselines that the candidate does not beat and about those it does."""
        settings = self.settings
        entries: list[dict[str, Any]] = []
        unbeaten, beaten = [], []
        for baseline in baselines:
            masks = dict.fromkeys(baseline.per_query, np.ones(len(baseline.query_labels), bool))
            drawn = compare_by_classes(
                baseline.per_query,
                baseline.query_labels,
                masks,
                resamples=settings.resamples,
                seed=settings.seed,
            )
            metrics = {name: _entry(drawn, at, settings.confidence) for at, name in enumerate(drawn.names)}
            found = metrics[settings.primary]
            better = bool(found["classes"] >= _FEW_CLASSES and found["low"] > _ROUNDING)
            entries.append({"name": baseline.name, "level": settings.confidence, "better": better, "metrics": metrics})
            if better:
                beaten.append(f"the {baseline.name} ({100 * found['baseline']:.1f} %; {_interval(found)} points)")
            else:
                unbeaten.append(self._describe_unbeaten(baseline.name, found))
        if beaten:
            found = entries[0]["metrics"][settings.primary]
            value = f"{metric_name(settings.primary)} {100 * found['candidate']:.1f} %"
            sure = f"with {100 * settings.confidence:g} % confidence"
            *others, last = beaten
            named = f"{', '.join(others)} and {last}" if others else last
            beaten = [f"{value} is better, {sure}, than {named}."]
        return entries, unbeaten, beaten

    def _describe_unbeaten(self, name: str, found: Mapping[str, Any]) -> str:
        settings = self.settings
        clearly = "clearly " if found["difference"] > 0 else ""
        told = (
            f"{metric_name(settings.primary)} {100 * found['candidate']:.1f} % is not {clearly}better than the {name}, "
            f"{100 * found['baseline']:.1f} %: difference {points(found['difference'])} points, "
            f"{100 * settings.confidence:g} % interval {_interval(found)}, on {found['queries']:,} queries of "
            f"{found['classes']:,} classes."
        )
        if found["classes"] < _FEW_CLASSES:
            return f"{told} Fewer than {_FEW_CLASSES} classes cannot show an improvement: test on more of them."
        if clearly and found["classes"] < _WIDE:
            return f"{told} With so few classes the interval is wide: more test classes make it narrower."
        return told

    def _judge_slices(self, drawn: Differences, names: list[str]) -> list[dict[str, Any]]:
        """One entry a slice, the greatest loss first."""
        settings = self.settings
        entries = []
        for name in names:
            at = drawn.names.index(f"slice {name}")
            if not drawn.queries[at]:
                continue
            drops = settings.slice_drops
            margin = drops.get(name, drops.get(name.partition("=")[0], drops.get("", settings.max_drop)))
            judged = bool(drawn.classes[at] >= _FEW_CLASSES and drawn.queries[at] >= _FEW_QUERIES)
            entry = {"name": name, **_entry(drawn, at), "margin": margin, "judged": judged}
            entries.append({**entry, "p": drawn.p_worse(at, margin) if judged else None})
        tried = [entry for entry in entries if entry["judged"]]
        for entry, p in zip(tried, holm([entry["p"] for entry in tried]), strict=True):
            entry["p_holm"] = p
        for entry in entries:
            entry["worse"] = bool(entry["judged"] and entry["p_holm"] < 1 - settings.confidence)
        return sorted(entries, key=lambda entry: (entry["difference"], entry["name"]))

    def _check_floors(self, metrics: Mapping[str, float]) -> tuple[list[str], list[str]]:
        """Sentences about the floors, missed and kept."""
        missed, kept = [], []
        for name, floor in self.settings.minimum.items():
            value = metrics[name]
            if value >= floor:  # false for nan, which is never good enough
                kept.append(f"{metric_name(name)} is {100 * value:.1f} %, at or above its floor of {100 * floor:g} %.")
            else:
                missed.append(f"{metric_name(name)} is {100 * value:.1f} %, below its floor of {100 * floor:g} %.")
        return missed, kept


def metric_name(name: str) -> str:
    """A metric's name as the literature writes it."""
    return _NAMES.get(name, name.replace("ndcg", "nDCG"))


def points(difference: float) -> str:
    """A difference of two shares in points, always with its sign: "+1.2"; "±0.0" for what rounds to nothing."""
    text = f"{100 * difference:+.1f}"
    return "±0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")  # noqa: RUF001


def _entry(drawn: Differences, at: int, level: float = _LEVEL) -> dict[str, Any]:
    low, high = drawn.interval(at, level)
    return {
        "queries": int(drawn.queries[at]),
        "classes": int(drawn.classes[at]),
        "candidate": float(drawn.candidate[at]),
        "baseline": float(drawn.baseline[at]),
        "difference": drawn.difference(at),
        "low": low,
        "high": high,
    }


def _interval(entry: Mapping[str, Any]) -> str:
    """The ends of the interval of a difference, in points."""
    return f"{points(entry['low'])} to {points(entry['high'])}"


def _describe_slice(entry: Mapping[str, Any]) -> str:
    return (
        f"Worse on the slice {entry['name']}: {points(entry['difference'])} points on {entry['queries']:,} queries of "
        f"{entry['classes']:,} classes, where a loss of {100 * entry['margin']:g} is allowed "
        f"(p = {entry['p_holm']:.3f} after Holm)."
    )
