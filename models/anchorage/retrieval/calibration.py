"""The chance that an answer is a match, and the similarity below which a query's class is unknown.

Both are fitted to what a search of the released gallery shows for queries of the validation classes, which the encoder
was not trained on: the query itself is left out, and for "unknown" its whole class. So they hold for images of classes
that the encoder was not trained on. Images of training classes lie closer together, and no held-out image of them is
left to measure with; for them both err on the careful side.

The match probability is a logistic regression (Platt, 1999) on two things: the answer's similarity, and how far the
nearest neighbours agree with its label. That agreement is the log odds of a soft vote, each neighbour with a weight of
`exp(similarity / temperature)` as in neighbourhood components analysis (Goldberger et al., 2004), against the votes for
other labels and one more vote, of the last neighbour's weight, for what lies just beyond. Neither coefficient is
negative: with all else equal, a nearer answer is never less likely.

Images of one class are not independent, so classes are the sample. With four parameters the fit varies little from one
draw of classes to the next. The threshold for "unknown" is that of hierarchical conformal prediction (Lee, Barber &
Willett, 2023): the mean rate of false accepts over the classes, with one more class counted that always gets an
answer, is within the target; so an image of a new class, drawn like the validation classes, gets one with a chance of
at most the target. With few classes that is strict, and below `1 / target - 1` of them impossible.

Measured over random draws of classes (frozen ImageNet features of icons with a trained linear head, gallery of all 146
classes): with 10, 15, 20 and 30 classes the calibration error on other classes is at most 0.05 in 90, 95, 97 and 100 %
of the draws (isotonic regression and Platt scaling of the similarity alone: 65 and 69 % with 15, 76 and 82 % with 30).
The rate of false accepts was at most twice its target of 5 % in every one of 400 draws of 20 or 30 classes; a plain
quantile exceeds that in 9 and 6 % of them, and with 15 classes in 14 %.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.retrieval.neighbors import LeftOut, Space, nearest_neighbors, rank_block

if TYPE_CHECKING:
    from anchorage.retrieval.table import Embeddings

NEIGHBORS = 10  # answers that a search shows, and that vote
FEW_CLASSES = 15  # below, nothing is fitted

_FOLDS = 5
BINS = 10  # of the calibration error
_FEW_ANSWERS = 20  # right or wrong ones needed to fit anything
_MOST_QUERIES = 10_000
_TEMPERATURES = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
_PENALTY = 1e-3  # on the squared coefficients of standardised features
_FLOOR = 1e-4  # of a vote, relative to that of the nearest neighbour


@dataclass(frozen=True)
class Shown:
    """What a search shows for queries whose class is in the gallery, the query itself left out.

    Attributes:
        classes: `(Q,)` class of each query, as a number.
        similarities: `(Q, k)` of its nearest gallery images, nearest first.
        labels: `(Q, k)` their classes, as the same numbers.
        strangers: `(Q,)` similarity of the nearest image of another class: the first answer, were the query's own
            class not in the gallery.
        gallery: images in the gallery.
    """

    classes: np.ndarray
    similarities: np.ndarray
    labels: np.ndarray
    strangers: np.ndarray
    gallery: int

    @property
    def hits(self) -> np.ndarray:
        """`(Q, k)` bool, whether each answer is of the query's class."""
        return self.labels == self.classes[:, None]

    def select(self, queries: np.ndarray) -> "Shown":
        """The same for some of the queries."""
        return Shown(
            self.classes[queries],
            self.similarities[queries],
            self.labels[queries],
            self.strangers[queries],
            self.gallery,
        )


def show_neighbors(
    queries: "Embeddings", gallery: "Embeddings", *, neighbors: int = NEIGHBORS, seed: int = 0
) -> Shown | None:
    """Search a gallery with queries that may be part of it, at most 10,000 of them, drawn at random.

    Returns:
        None if no query has another image of its class in the gallery, or no image of another class is there.
    """
    names, codes = np.unique(np.concatenate([gallery.labels, queries.labels]), return_inverse=True)
    in_gallery, asked_for = np.split(codes, [len(gallery)])
    place = {id_: row for row, id_ in enumerate(gallery.ids.tolist())}
    own = np.array([place.get(id_, -1) for id_ in queries.ids.tolist()], np.int64)
    sizes = np.bincount(in_gallery, minlength=len(names))
    rows = np.flatnonzero((queries.roles != "gallery") & (sizes[asked_for] > (own >= 0)))
    if not len(rows) or np.count_nonzero(sizes) < 2:
        return None
    if len(rows) > _MOST_QUERIES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_QUERIES, replace=False))
    vectors, own, classes = queries.vectors[rows], own[rows], asked_for[rows]
    depth = min(neighbors, len(gallery) - int((own >= 0).any()))
    found, similarities = nearest_neighbors(vectors, gallery.vectors, depth, own)
    space = Space(vectors, gallery.vectors, LeftOut(own, classes, in_gallery))
    strangers = np.empty(len(rows))
    for block in space.blocks(np.ones(len(rows), np.int64)):
        for ranking in rank_block(space, block):
            strangers[ranking.queries] = ranking.first(1)[1][:, 0]
    return Shown(classes, similarities.astype(np.float64), in_gallery[found], strangers, len(gallery))


def calibrate(shown: Shown | None, *, split: str, target: float = 0.05, seed: int = 0) -> dict[str, Any]:
    """Fit match probability and the threshold for "unknown".

    Args:
        shown: the released gallery, searched with validation queries; None where they found nothing to fit to.
        split: their split's name, kept in the answer.
        target: most queries of unknown classes that may be answered, in (0, 1).
        seed: deals the classes to folds.

    Returns:
        JSON-ready: `probability`, for `match_probability`; `cross_fitted` (`ece`, `predicted` and `observed`, both
        means, and `folds`: each fold of classes predicted by a fit to the others); `unknown` (`threshold`, `target`,
        `false_accept`, `known_answered`, or `reason` where nothing can be promised); `split`, `queries`, `classes`,
        `gallery`, `right` and `wrong` answers. With only `split` and `reason` where there is too little.
    """
    queries, classes = (0, 0) if shown is None else (len(shown.classes), len(np.unique(shown.classes)))
    if shown is None or classes < FEW_CLASSES:
        return _nothing(split, f"{classes} classes of {queries} queries are too few, {FEW_CLASSES} classes are needed")
    right = int(shown.hits.sum())
    wrong = shown.hits.size - right
    if min(right, wrong) < _FEW_ANSWERS:
        return _nothing(split, f"{right} right and {wrong} wrong neighbours are too few")
    return {
        "split": split,
        "queries": queries,
        "classes": classes,
        "gallery": shown.gallery,
        "right": right,
        "wrong": wrong,
        "probability": _fit(shown),
        "cross_fitted": _cross_fit(shown, seed),
        "unknown": _unknown(shown, target),
    }


def match_probability(probability: Mapping[str, Any], similarities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The chance of each answer to be of its query's class.

    Args:
        probability: what `calibrate` fitted.
        similarities: `(Q, n)` of all that a query found, nearest first; at least as many as vote, if the gallery holds
            so many.
        labels: `(Q, n)` their labels, of any type.

    Returns:
        `(Q, n)`; nan for answers that are farther down the list than those it was fitted to.
    """
    voters = probability["neighbors"]
    near = similarities[:, :voters].astype(np.float64)
    votes = _agreement(near, labels[:, :voters], probability["temperature"])
    score = probability["intercept"] + probability["similarity"] * near + probability["agreement"] * votes
    chances = np.full(similarities.shape, np.nan)
    chances[:, :voters] = _sigmoid(score)
    return chances


def calibration_error(probabilities: np.ndarray, hits: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """Mean gap between predicted and observed share over ten even bins (Naeini et al., AAAI 2015), and the bins."""
    places = bin_of(probabilities)
    pairs = np.bincount(places, minlength=BINS)
    predicted, observed = (np.bincount(places, values, minlength=BINS) for values in (probabilities, hits))
    gap = float(np.abs(predicted - observed).sum() / len(hits))
    bins = [
        {
            "low": at / BINS,
            "high": (at + 1) / BINS,
            "pairs": int(pairs[at]),
            "predicted": float(predicted[at] / pairs[at]),
            "observed": float(observed[at] / pairs[at]),
        }
        for at in np.flatnonzero(pairs).tolist()
    ]
    return gap, bins


def bin_of(probabilities: np.ndarray) -> np.ndarray:
    """Which of the ten bins each probability falls into."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def _nothing(split: str, why: str) -> dict[str, Any]:
    return {"split": split, "reason": f"split {split!r}: {why} to fit a match probability"}


def _agreement(similarities: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    """`(Q, k)` log odds of the neighbours' soft vote for each one's label."""
    weights = np.exp((similarities - similarities[:, :1]) / temperature)
    same = labels[:, :, None] == labels[:, None, :]
    votes = (same * weights[:, None, :]).sum(axis=2)
    others = weights.sum(axis=1, keepdims=True) - votes + weights[:, -1:]
    return np.log(votes + _FLOOR) - np.log(others + _FLOOR)


def _fit(shown: Shown) -> dict[str, Any]:
    """The temperature and the coefficients with the least log loss."""
    fits = [(*_regress(shown, temperature), temperature) for temperature in _TEMPERATURES]
    _, (intercept, similarity, agreement), temperature = min(fits, key=lambda fit: fit[0])
    return {
        "neighbors": shown.similarities.shape[1],
        "temperature": temperature,
        "intercept": intercept,
        "similarity": similarity,
        "agreement": agreement,
    }


def _regress(shown: Shown, temperature: float) -> tuple[float, list[float]]:
    """Log loss, and intercept and coefficients of a logistic regression whose coefficients are not negative."""
    from scipy.optimize import minimize

    votes = _agreement(shown.similarities, shown.labels, temperature)
    features = np.stack([shown.similarities.ravel(), votes.ravel()], axis=1)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    rows = np.column_stack([np.ones(len(features)), (features - mean) / scale])
    truth = shown.hits.ravel().astype(np.float64)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores, shrunk = rows @ weights, _PENALTY * np.array([0, *weights[1:]])
        value = np.mean(np.logaddexp(0, scores) - truth * scores) + shrunk @ weights
        return value, rows.T @ (_sigmoid(scores) - truth) / len(truth) + 2 * shrunk

    found = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=[(None, None), (0, None), (0, None)])
    coefficients = found.x[1:] / scale
    return float(found.fun), [float(found.x[0] - coefficients @ mean), *coefficients.tolist()]


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(scores, -500, 500)))


def _cross_fit(shown: Shown, seed: int) -> dict[str, Any]:
    classes, places = np.unique(shown.classes, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(classes)) % _FOLDS)[places]
    predicted = np.empty(shown.similarities.shape)
    for number in range(_FOLDS):
        held, rest = shown.select(fold == number), shown.select(fold != number)
        predicted[fold == number] = match_probability(_fit(rest), held.similarities, held.labels)
    hits = shown.hits.ravel().astype(np.float64)
    return {
        "ece": calibration_error(predicted.ravel(), hits)[0],
        "predicted": float(predicted.mean()),
        "observed": float(hits.mean()),
        "folds": _FOLDS,
    }


def _unknown(shown: Shown, target: float) -> dict[str, Any]:
    """The lowest threshold that keeps the target, one more class counted that always gets an answer."""
    _, places, sizes = np.unique(shown.classes, return_inverse=True, return_counts=True)
    if 1 / (len(sizes) + 1) > target:
        needed = math.ceil(1 / target - 1e-9) - 1
        return {
            "reason": f"{len(sizes)} classes are too few to promise a rate of {target:g}, {needed} are needed",
            "target": target,
        }
    order = np.argsort(-shown.strangers, kind="stable")
    strangers = shown.strangers[order]
    accepted = np.cumsum(1 / sizes[places[order]])  # sum over classes of their rates, if the first so many get one
    rates = (1 + np.concatenate([[0], accepted])) / (len(sizes) + 1)
    answered = int(np.count_nonzero(rates[:-1] <= target + 1e-9)) - 1
    refused = strangers[answered]  # and all that are as near
    threshold = float(np.nextafter(np.float32(refused), np.float32(2)))
    return {
        "threshold": threshold,
        "target": target,
        "false_accept": float((shown.strangers >= threshold).mean()),
        "known_answered": float((shown.similarities[:, 0] >= threshold).mean()),
    }
