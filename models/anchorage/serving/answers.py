"""Answers to queries: what a release makes of the nearest gallery items, such as match probabilities."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchorage.data.images import ImageFault
from anchorage.release import Release
from anchorage.retrieval.calibration import match_probability


class Answer(NamedTuple):
    """Search results of one image, nearest first.

    Attributes:
        ids: ids of the gallery images; empty if the image has a fault.
        labels: classes of the gallery images.
        scores: cosine similarities, in [-1, 1].
        likely: whether each score is at or above the release's threshold for
            a likely match; None if the release has no threshold, and if it
            has match probabilities, which say more.
        probabilities: probability of each to be a match, for images of
            classes that the encoder was not trained on; None for ranks beyond
            those used for the fit. None if the release has no match
            probability that holds on the test classes.
        unknown: whether the nearest score is below the threshold for
            "unknown": too low to rule out that the gallery lacks the class of
            the image; None if the release has no threshold that holds on the
            test classes.
        fault: why the image could not be used, or None.
        left_out: ids of gallery images with the same pixels as the query,
            which are excluded from the results.
        attributes: attributes of the gallery images by name; None for a
            gallery that was searched without them.
    """

    ids: list[str]
    labels: list[str]
    scores: list[float]
    likely: list[bool] | None
    probabilities: list[float | None] | None
    unknown: bool | None
    fault: ImageFault | None
    left_out: Sequence[str] = ()
    attributes: Sequence[Mapping[str, str]] | None = None


class Answers(list[Answer]):
    """The answers to several queries, shown as a table."""

    def __repr__(self) -> str:
        lines = []
        for number, answer in enumerate(self):
            lines.append(f"query {number}: {_remark(answer)}".rstrip(": "))
            lines += [f"  {rank:>3}  {score:.4f}  {label:<24} {id_}" for rank, id_, label, score in _rows(answer)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        cells = [
            [str(number), str(rank), f"{score:.4f}", label, id_]
            for number, answer in enumerate(self)
            for rank, id_, label, score in _rows(answer)
        ]
        head = "".join(f"<th>{name}</th>" for name in ("query", "rank", "score", "label", "id"))
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in cells]
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _rows(answer: Answer) -> list[tuple[int, str, str, float]]:
    found = zip(answer.ids, answer.labels, answer.scores, strict=True)
    return [(rank, id_, label, score) for rank, (id_, label, score) in enumerate(found, 1)]


def _remark(answer: Answer) -> str:
    if answer.fault:
        return f"{answer.fault.code}: {answer.fault.message}"
    return "unknown: the gallery may lack its class" if answer.unknown else ""


class UnknownRates(NamedTuple):
    """Shares of test queries reported as unknown: of those whose class is missing in the gallery, and present."""

    missing: float
    present: float


class Judgement:
    """Match probabilities and the threshold for unknown queries, applied to the nearest items of a query.

    Args:
        release: the release whose thresholds and calibration are used.

    Attributes:
        threshold: cosine from which a result is a likely match; None if the
            release has none, or a match probability instead.
        probability: parameters of the match probability; None if the release
            has none that holds on its test classes.
        unknown_below: cosine below which a query counts as unknown, or None.
        unknown_rates: shares of the test queries that are below it: of those
            whose class is missing in the gallery, and of the others; or None.
        doubts: sentences on why there is no match probability or no threshold
            for unknown queries.
    """

    def __init__(self, release: Release):
        calibration = release.calibration
        self.probability: dict | None = calibration["probability"] if _holds(calibration, "probability") else None
        self.threshold: float | None = (
            None if self.probability else release.thresholds.get("likely_match", {}).get("threshold")
        )
        self.unknown_below: float | None = (
            calibration["unknown"]["threshold"] if _holds(calibration, "unknown") else None
        )
        self.unknown_rates = None if self.unknown_below is None else _unknown_rates(calibration["check"]["unknown"])
        self.doubts = _doubts(calibration)

    def reach(self, k: int) -> int:
        """Return how many items to search for `k` results: the probability depends on all neighbors that vote."""
        return max(k, self.probability["neighbors"]) if self.probability else k

    def answer(
        self,
        ids: Sequence[str],
        labels: Sequence[str],
        scores: Sequence[float] | np.ndarray,
        k: int,
        *,
        left_out: Sequence[str] = (),
        attributes: Sequence[Mapping[str, str]] | None = None,
    ) -> Answer:
        """Judge the nearest items of one query and keep the first `k`.

        Args:
            ids: ids of the items, nearest first; `reach(k)` of them, if there are that many.
            labels: their labels.
            scores: their similarities.
            k: number of results.
            left_out: ids that were excluded from the results.
            attributes: attributes of the items.
        """
        scores = np.asarray(scores, np.float32)
        probabilities = None
        if self.probability and len(scores):
            classes = np.array(labels, object)[None]
            (values,) = match_probability(self.probability, scores[None], classes).tolist()
            probabilities = [None if math.isnan(value) else value for value in values[:k]]
        return Answer(
            ids=list(ids[:k]),
            labels=list(labels[:k]),
            scores=scores[:k].tolist(),
            likely=None if self.threshold is None else (scores[:k] >= self.threshold).tolist(),
            probabilities=probabilities,
            unknown=None if self.unknown_below is None or not len(scores) else bool(scores[0] < self.unknown_below),
            fault=None,
            left_out=left_out,
            attributes=None if attributes is None else attributes[:k],
        )

    def narrow(
        self,
        whole: Answer,
        ids: Sequence[str],
        labels: Sequence[str],
        scores: np.ndarray,
        attributes: Sequence[Mapping[str, str]] | None = None,
    ) -> Answer:
        """Judge the results of a filtered search by those of the whole gallery, for which the judgement was measured.

        Args:
            whole: answer of the unfiltered search, with `reach(k)` results.
            ids: ids of the items that the filter lets through, nearest first.
            labels: their labels.
            scores: their similarities.
            attributes: their attributes.

        Returns:
            The answer; items that are not among the nearest of the whole gallery have no match probability.
        """
        known = dict(zip(whole.ids, whole.probabilities, strict=True)) if whole.probabilities else {}
        return Answer(
            ids=list(ids),
            labels=list(labels),
            scores=scores.tolist(),
            likely=None if self.threshold is None else (scores >= self.threshold).tolist(),
            probabilities=None if whole.probabilities is None else [known.get(id_) for id_ in ids],
            unknown=whole.unknown,
            fault=None,
            left_out=whole.left_out,
            attributes=attributes,
        )


def _holds(calibration: Mapping[str, Any], part: str) -> bool:
    """Return whether a part of the calibration holds on the test classes; earlier formats have no check."""
    return calibration.get("check", {}).get(part, {}).get("holds", False)


def _unknown_rates(check: Mapping[str, Any]) -> UnknownRates:
    return UnknownRates(1 - check["false_accept"]["value"], 1 - check["answered"]["value"])


def _doubts(calibration: Mapping[str, Any]) -> list[str]:
    if not calibration:
        return []
    if "check" not in calibration:
        reason = calibration.get(
            "reason", "this release has an earlier format, which was not validated on test classes"
        )
        return [f"no match probability and no unknown queries: {reason}"]
    missing = {"probability": "no match probability", "unknown": "no query is marked as unknown"}
    checks = {part: calibration["check"][part] for part in missing}
    return [
        f"{missing[part]}: {check.get('statement') or check['reason']}"
        for part, check in checks.items()
        if not check["holds"]
    ]
