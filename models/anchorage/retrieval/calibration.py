"""Match probabilities of search results, and the similarity threshold below which a query's class is unknown.

Both are fitted to the neighbors of validation queries in the released gallery. The encoder was not trained on the
validation classes; the query itself is excluded, and for the threshold its whole class. The results therefore hold for
images of classes outside the training set. Images of training classes lie closer together, and no held-out images of
them exist; for them both are conservative.

The match probability is a logistic regression (Platt, 1999) on two features: the similarity of a neighbor, and the
agreement of all neighbors with its label. The agreement is the log odds of a soft vote: each neighbor votes for its
label with weight `exp(similarity / temperature)`, as in neighborhood components analysis (Goldberger et al., 2004). The
votes against are those for other labels, and one extra vote with the weight of the last neighbor for the items just
beyond it. Coefficients are constrained to be non-negative, so that, other things equal, a nearer neighbor is never less
likely to match.

Images of one class are not independent, so the sampling unit is the class. The model has only four parameters and
varies little between samples of classes. The threshold comes from hierarchical conformal prediction (Lee, Barber &
Willett, 2023): it is the lowest one whose false-accept rate, averaged over the classes and one extra class that is
always accepted, is within the target. An image of a new class, drawn from the same distribution as the validation
classes, is then accepted with a probability of at most the target. With few classes this is strict, and with fewer than
`1 / target - 1` classes no threshold exists.

Measured over random samples of classes (frozen ImageNet features of icons with a trained linear head, gallery of all
146 classes): with 10, 15, 20 and 30 classes the calibration error on other classes is at most 0.05 in 90, 95, 97 and
100 % of the samples (isotonic regression and Platt scaling of the similarity alone: 65 and 69 % with 15 classes, 76 and
82 % with 30). The false-accept rate was at most twice its target of 5 % in all of 400 samples of 20 or 30 classes; a
plain quantile exceeds that in 9 and 6 % of them, and with 15 classes in 14 %.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.retrieval.neighbors import Exclusions, Space, nearest_neighbors, rank_block

if TYPE_CHECKING:
    from anchorage.retrieval.table import Embeddings

NEIGHBORS = 10  # neighbors that a search shows, and that vote
FEW_CLASSES = 15  # least number of classes to fit to

_FOLDS = 5
BINS = 10  # of the calibration error
_FEW_ANSWERS = 20  # least number of matching and of other neighbors to fit to
_MOST_QUERIES = 10_000
_TEMPERATURES = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
_PENALTY = 1e-3  # on the squared coefficients of standardised features
_FLOOR = 1e-4  # lower bound of a sum of votes, relative to the vote of the nearest neighbor


@dataclass(frozen=True)
class NeighborSample:
    """Nearest neighbors of queries whose class is in the gallery; the query itself is excluded.

    Attributes:
        classes: `(Q,)` class number of each query.
        similarities: `(Q, k)` similarities of the nearest gallery images, nearest first.
        labels: `(Q, k)` class numbers of these images.
        nearest_other: `(Q,)` similarity of the nearest image of another class, which would be the first neighbor if
            the gallery did not contain the query's class.
        gallery: number of images in the gallery.
    """

    classes: np.ndarray
    similarities: np.ndarray
    labels: np.ndarray
    nearest_other: np.ndarray
    gallery: int

    @property
    def hits(self) -> np.ndarray:
        """`(Q, k)` bool, whether each neighbor is of the query's class."""
        return self.labels == self.classes[:, None]

    def select(self, queries: np.ndarray) -> "NeighborSample":
        """Select some of the queries."""
        return NeighborSample(
            self.classes[queries],
            self.similarities[queries],
            self.labels[queries],
            self.nearest_other[queries],
            self.gallery,
        )


def sample_neighbors(
    queries: "Embeddings", gallery: "Embeddings", *, neighbors: int = NEIGHBORS, seed: int = 0
) -> NeighborSample | None:
    """Search a gallery with a random sample of at most 10,000 queries, which can be part of it.

    Returns:
        The neighbors, or None if no query has another image of its class in the gallery, or the gallery has only one
        class.
    """
    names, codes = np.unique(np.concatenate([gallery.labels, queries.labels]), return_inverse=True)
    gallery_classes, query_classes = np.split(codes, [len(gallery)])
    row_of_id = {id_: row for row, id_ in enumerate(gallery.ids.tolist())}
    own = np.array([row_of_id.get(id_, -1) for id_ in queries.ids.tolist()], np.int64)
    sizes = np.bincount(gallery_classes, minlength=len(names))
    rows = np.flatnonzero((queries.roles != "gallery") & (sizes[query_classes] > (own >= 0)))
    if not len(rows) or np.count_nonzero(sizes) < 2:
        return None
    if len(rows) > _MOST_QUERIES:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_QUERIES, replace=False))
    vectors, own, classes = queries.vectors[rows], own[rows], query_classes[rows]
    depth = min(neighbors, len(gallery) - int((own >= 0).any()))
    neighbor_rows, similarities = nearest_neighbors(vectors, gallery.vectors, depth, own)
    space = Space(vectors, gallery.vectors, Exclusions(own, classes, gallery_classes))
    nearest_other = np.empty(len(rows))
    for block in space.blocks(np.ones(len(rows), np.int64)):
        for ranking in rank_block(space, block):
            nearest_other[ranking.queries] = ranking.first(1)[1][:, 0]
    return NeighborSample(
        classes, similarities.astype(np.float64), gallery_classes[neighbor_rows], nearest_other, len(gallery)
    )


def calibrate(sample: NeighborSample | None, *, split: str, target: float = 0.05, seed: int = 0) -> dict[str, Any]:
    """Fit the match probability and the threshold for "unknown".

    Args:
        sample: neighbors of validation queries in the released gallery, from `sample_neighbors`.
        split: name of the split of the queries, for the result.
        target: highest share, in (0, 1), of queries of unknown classes that may be accepted.
        seed: assigns the classes to folds.

    Returns:
        JSON-ready dict: `probability`, the parameters for `match_probability`; `cross_fitted` (`ece`, mean `predicted`
        and `observed` probability, and `folds`: each fold of classes is predicted by a fit to the others); `unknown`
        (`threshold`, `target`, `false_accept`, `known_answered`; or `reason` if there is no threshold); `split`,
        `queries`, `classes`, `gallery`, and the number of `right` and `wrong` neighbors. With too little data only
        `split` and `reason`.
    """
    queries, classes = (0, 0) if sample is None else (len(sample.classes), len(np.unique(sample.classes)))
    if sample is None or classes < FEW_CLASSES:
        return _not_fitted(
            split, f"{classes} classes of {queries} queries are too few, {FEW_CLASSES} classes are needed"
        )
    right = int(sample.hits.sum())
    wrong = sample.hits.size - right
    if min(right, wrong) < _FEW_ANSWERS:
        return _not_fitted(split, f"{right} right and {wrong} wrong neighbours are too few")
    return {
        "split": split,
        "queries": queries,
        "classes": classes,
        "gallery": sample.gallery,
        "right": right,
        "wrong": wrong,
        "probability": _fit(sample),
        "cross_fitted": _cross_fit(sample, seed),
        "unknown": _unknown(sample, target),
    }


def match_probability(probability: Mapping[str, Any], similarities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the probability of each neighbor to be of its query's class.

    Args:
        probability: the entry `probability` of the result of `calibrate`.
        similarities: `(Q, n)` similarities of the neighbors, nearest first; at least as many as vote, if the gallery
            has that many images.
        labels: `(Q, n)` labels of the neighbors, of any type.

    Returns:
        `(Q, n)` probabilities; NaN for ranks beyond those used for the fit.
    """
    voters = probability["neighbors"]
    near = similarities[:, :voters].astype(np.float64)
    votes = _agreement(near, labels[:, :voters], probability["temperature"])
    score = probability["intercept"] + probability["similarity"] * near + probability["agreement"] * votes
    probabilities = np.full(similarities.shape, np.nan)
    probabilities[:, :voters] = _sigmoid(score)
    return probabilities


def calibration_error(probabilities: np.ndarray, hits: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """Compute the expected calibration error over ten bins of equal width (Naeini et al., AAAI 2015), and the bins."""
    bin_numbers = bin_of(probabilities)
    pairs = np.bincount(bin_numbers, minlength=BINS)
    predicted, observed = (np.bincount(bin_numbers, values, minlength=BINS) for values in (probabilities, hits))
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
    """Return the number of each probability's bin."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def _not_fitted(split: str, reason: str) -> dict[str, Any]:
    return {"split": split, "reason": f"split {split!r}: {reason} to fit a match probability"}


def _agreement(similarities: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    """Compute the log odds `(Q, k)` of the neighbors' soft vote for the label of each neighbor."""
    weights = np.exp((similarities - similarities[:, :1]) / temperature)
    same = labels[:, :, None] == labels[:, None, :]
    votes = (same * weights[:, None, :]).sum(axis=2)
    others = weights.sum(axis=1, keepdims=True) - votes + weights[:, -1:]
    return np.log(votes + _FLOOR) - np.log(others + _FLOOR)


def _fit(sample: NeighborSample) -> dict[str, Any]:
    """Choose the temperature and the coefficients with the lowest log loss."""
    fits = [(*_regress(sample, temperature), temperature) for temperature in _TEMPERATURES]
    _, (intercept, similarity, agreement), temperature = min(fits, key=lambda fit: fit[0])
    return {
        "neighbors": sample.similarities.shape[1],
        "temperature": temperature,
        "intercept": intercept,
        "similarity": similarity,
        "agreement": agreement,
    }


def _regress(sample: NeighborSample, temperature: float) -> tuple[float, list[float]]:
    """Fit a logistic regression with non-negative coefficients; return the log loss, and intercept and coefficients."""
    from scipy.optimize import minimize

    votes = _agreement(sample.similarities, sample.labels, temperature)
    features = np.stack([sample.similarities.ravel(), votes.ravel()], axis=1)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    rows = np.column_stack([np.ones(len(features)), (features - mean) / scale])
    truth = sample.hits.ravel().astype(np.float64)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores, shrunk = rows @ weights, _PENALTY * np.array([0, *weights[1:]])
        value = np.mean(np.logaddexp(0, scores) - truth * scores) + shrunk @ weights
        return value, rows.T @ (_sigmoid(scores) - truth) / len(truth) + 2 * shrunk

    result = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=[(None, None), (0, None), (0, None)])
    coefficients = result.x[1:] / scale
    return float(result.fun), [float(result.x[0] - coefficients @ mean), *coefficients.tolist()]


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(scores, -500, 500)))


def _cross_fit(sample: NeighborSample, seed: int) -> dict[str, Any]:
    classes, codes = np.unique(sample.classes, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(classes)) % _FOLDS)[codes]
    predicted = np.empty(sample.similarities.shape)
    for number in range(_FOLDS):
        held_out, rest = sample.select(fold == number), sample.select(fold != number)
        predicted[fold == number] = match_probability(_fit(rest), held_out.similarities, held_out.labels)
    hits = sample.hits.ravel().astype(np.float64)
    return {
        "ece": calibration_error(predicted.ravel(), hits)[0],
        "predicted": float(predicted.mean()),
        "observed": float(hits.mean()),
        "folds": _FOLDS,
    }


def _unknown(sample: NeighborSample, target: float) -> dict[str, Any]:
    """Find the lowest threshold within the target, with one extra class that is always accepted."""
    _, codes, sizes = np.unique(sample.classes, return_inverse=True, return_counts=True)
    if 1 / (len(sizes) + 1) > target:
        needed = math.ceil(1 / target - 1e-9) - 1
        return {
            "reason": f"{len(sizes)} classes are too few to guarantee a rate of {target:g}, {needed} are needed",
            "target": target,
        }
    order = np.argsort(-sample.nearest_other, kind="stable")
    nearest_other = sample.nearest_other[order]
    accepted = np.cumsum(1 / sizes[codes[order]])  # sum over classes of their rates, if the first n are accepted
    rates = (1 + np.concatenate([[0], accepted])) / (len(sizes) + 1)
    most_accepted = int(np.count_nonzero(rates[:-1] <= target + 1e-9)) - 1
    rejected = nearest_other[most_accepted]  # with all queries of the same similarity
    threshold = float(np.nextafter(np.float32(rejected), np.float32(2)))
    return {
        "threshold": threshold,
        "target": target,
        "false_accept": float((sample.nearest_other >= threshold).mean()),
        "known_answered": float((sample.similarities[:, 0] >= threshold).mean()),
    }
