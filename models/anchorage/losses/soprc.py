"""SOPRC: Wen et al., NeurIPS 2022, eq. 7, 9, 10: stochastic optimisation of the precision-recall area."""

from collections.abc import Sequence
from types import MappingProxyType

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative, check_positive
from anchorage.geometry import dot_products, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.derivatives import measure_of
from anchorage.pairs.masks import mean_where, pair_masks
from anchorage.pairs.positives import sum_over_positives
from anchorage.pairs.walk import ClassMembers, sum_rows
from anchorage.proxies.logits import sums_of_classes

_SMALL_CLASS = 64  # most items of a class whose scores are sorted without those of the rest of the batch


@keras.saving.register_keras_serializable(package="anchorage")
class SOPRCLoss(LossLayer):
    """One minus the area under the precision-recall curve, with an explicit class prior and a moving recall.

    Formula, for anchor a of class c, its positive scores `s_ai` and negative scores `n_aj`:

        F_ai = mean_j l1(s_ai - n_aj)             l1(u) = 1 - 2u/tau1 below 0, (1 - u/tau1)^2 up to tau1, 0 above
        R_ai = (1 + sum_l l2(s_ai - v_cl)) / (num_v + 1)        l2(u) = tanh(max(0, -u) / (2 tau2))
        z = (1 - prior_c) / prior_c F / R
        loss = mean z / (1 + z) + w_var (lam1 var+ + lam2 var-)

    `v_c` is a sketch of the positive scores of class c: a moving average, kept and saved as a weight that is not
    trained, updated before it is used unless `training=False`. `var+` is the mean squared distance below the mean
    of the positive scores that lie below it, `var-` likewise above for negatives.

    Defaults: numbers of `config/SOP/soprc_sgd.yaml` in the published code (KID-7391/SOPRC). Ours are the mean of
    the anchors' sketches, there the last anchor's, and one prior for all classes, there 0.01 times the class's size
    over the largest.

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        class_prior: share of a class among all items, in (0, 1); one number, or one for each class.
        prior_mul: prior of the largest class, in (0, 1), the others in proportion to their sizes, in place of
            `class_prior`: `prior_c = prior_mul n_c / max n`, as in the published code. None takes `class_prior`.
        class_counts: items of each class, n, for `prior_mul`; a training from an experiment file counts them.
        tau1: width of the false-positive surrogate, positive.
        tau2: width of the true-positive surrogate, positive.
        beta: weight of the newest sketch, in [0, 1].
        num_v: numbers in a sketch, at least 1.
        w_var: weight of the semi-variances, at least 0.
        lam1: weight of the positive one.
        lam2: weight of the negative one.
        stop_gradient_through_tpr: take R as constant, as the published code does.
        normalize: bring the rows to unit length first.
        published_code: a class takes the sketch of its last anchor, as in the published code, so that the order within
            a class matters; else the mean of its anchors' sketches.

    Call arguments:
        labels: `(N,)` integer tensor of class ids; classes may differ in size.
        training: `False` leaves the sketches as they are.

    Returns:
        Scalar float32 tensor, at least 0; only the semi-variance is left where no anchor has both kinds
        of pairs. A compiled call with a label outside the classes gives nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit
            together, or (eager calls) a label outside the classes.

    Example:
        >>> loss = SOPRCLoss(num_classes=3)
        >>> float(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])))  # no two of a class
        0.0
    """

    takes = ("training",)
    _removed = MappingProxyType({"class_update": "mean"})
    _replaced = (({"class_update": "last"}, {"published_code": True}),)
    dense_labels = True

    def __init__(
        self,
        num_classes: int,
        class_prior: float | Sequence[float] = 0.01,
        tau1: float = 0.1,
        tau2: float = 0.001,
        beta: float = 0.1,
        num_v: int = 100,
        w_var: float = 1.0,
        lam1: float = 1.0,
        lam2: float = 5.0,
        stop_gradient_through_tpr: bool = True,
        normalize: bool = True,
        prior_mul: float | None = None,
        class_counts: Sequence[int] | None = None,
        published_code: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(num_classes=num_classes, num_v=num_v)
        check_positive(tau1=tau1, tau2=tau2)
        if not 0 <= beta <= 1:
            raise ValueError(f"`beta` must lie in [0, 1]. Received: beta={beta}")
        check_not_negative(w_var=w_var, lam1=lam1, lam2=lam2)
        priors = list(class_prior) if isinstance(class_prior, Sequence) else [class_prior] * num_classes
        if len(priors) != num_classes or not all(0 < prior < 1 for prior in priors):
            raise ValueError(
                f"`class_prior` must be one number in (0, 1), or {num_classes} of them. "
                f"Received: class_prior={class_prior}"
            )
        if prior_mul is not None:
            priors = _priors_of_counts(prior_mul, class_counts, num_classes)
        self.num_classes = num_classes
        self.class_prior = list(class_prior) if isinstance(class_prior, Sequence) else class_prior
        self.prior_mul = prior_mul
        self.class_counts = None if prior_mul is None else [int(count) for count in class_counts or ()]
        self._priors = priors
        self.tau1 = tau1
        self.tau2 = tau2
        self.beta = beta
        self.num_v = num_v
        self.w_var = w_var
        self.lam1 = lam1
        self.lam2 = lam2
        self.stop_gradient_through_tpr = stop_gradient_through_tpr
        self.normalize = normalize
        self.published_code = published_code

    def build(self, embeddings_shape, labels_shape):
        self.sketches = self.add_weight(
            name="sketches",
            shape=(self.num_classes, self.num_v),
            initializer=lambda shape, dtype=None: ops.tile(
                ops.arange(shape[1], dtype=dtype)[None] / shape[1], (shape[0], 1)
            ),
            trainable=False,
        )

    def compute(self, embeddings, labels, training=None):
        rows = unit_rows(embeddings) if self.normalize else embeddings
        scores = dot_products(rows, rows)
        positives, negatives = pair_masks(labels)
        sketches = ops.take(self.sketches, labels, axis=0)
        if training is not False:
            sketches = self._remember(ops.stop_gradient(scores), labels, positives, sketches)
        loss = self._area(scores, labels, positives, negatives, sketches)
        if self.w_var:
            loss = loss + self.w_var * semi_variance(scores, positives, negatives, self.lam1, self.lam2)
        return loss

    def _area(self, scores, labels, positives, negatives, sketches):
        prior = ops.take(ops.convert_to_tensor(self._priors, dtype=scores.dtype), labels, axis=0)
        number = ops.sum(ops.cast(negatives, scores.dtype), axis=1)
        some = ops.cast(number > 0, scores.dtype)
        weight = some / ops.maximum(ops.sum(some * ops.sum(ops.cast(positives, scores.dtype), axis=1)), 1.0)

        def cost(score, others, prior, number, sketches):
            false = sum_rows(self._l1(score - others)) / number
            recall = (1.0 + ops.sum(self._l2(score - sketches), axis=1)) / (self.num_v + 1.0)
            if self.stop_gradient_through_tpr:
                recall = ops.stop_gradient(recall)
            false, true = (1.0 - prior) * false, prior * recall
            # z / (1 + z) with z = false / true, as 1 / (1 + 1/z): its derivative does not cancel where z is large.
            return ops.where(false > 0, 1.0 / (1.0 + true / ops.where(false > 0, false, 1.0)), 0.0)

        others = ops.where(negatives, scores, float("-inf"))
        constants = (prior, ops.maximum(number, 1.0), sketches)
        return sum_over_positives(scores, labels, measure_of(cost, weight, constants), others=(others,))[0]

    def _l1(self, gap):
        short = ops.relu(1.0 - gap / self.tau1)
        # A parabola up to 1, a straight line beyond: the largest over `bent` <= 1, whose derivative has `bent` fixed.
        bent = ops.stop_gradient(ops.minimum(short, 1.0))
        return bent * (2.0 * short - bent)

    def _l2(self, gap):
        return ops.tanh(ops.relu(-gap) / (2.0 * self.tau2))

    def _remember(self, scores, labels, positives, old):
        """Updates the sketches of the classes in the batch; returns the new one of each item's class."""
        fresh = self._sketch(scores, labels, positives)
        if self.published_code:
            same = ops.equal(labels[:, None], labels[None, :])
            columns = ops.arange(ops.shape(labels)[0])
            fresh = ops.take(fresh, ops.max(ops.where(same, columns[None, :], 0), axis=1), axis=0)
        else:
            sums = sums_of_classes(fresh, labels, self.num_classes)
            sizes = sums_of_classes(ops.ones_like(fresh[:, :1]), labels, self.num_classes)
            fresh = ops.take(sums, labels, axis=0) / ops.take(sizes, labels, axis=0)
        has_pair = ops.any(positives, axis=1, keepdims=True)
        new = ops.where(has_pair, (1.0 - self.beta) * old + self.beta * fresh, old)
        # All items of a class write the same row.
        self.sketches.assign(ops.scatter_update(self.sketches, labels[:, None], ops.cast(new, self.sketches.dtype)))
        return new

    def _sketch(self, scores, labels, positives):
        """Each anchor's positive scores, sorted and spread over `num_v` places by straight lines between midpoints."""
        members = ClassMembers(labels)
        count = members.size[:, None] - 1

        def own_class():
            columns, present = members.first(_SMALL_CLASS)
            kept = ops.logical_and(present, ops.take_along_axis(positives, columns, axis=1))
            return self._spread(ops.where(kept, ops.take_along_axis(scores, columns, axis=1), 2.0), count)

        def whole_batch():
            return self._spread(ops.where(positives, scores, 2.0), count)

        return ops.cond(members.largest <= _SMALL_CLASS, own_class, whole_batch)

    def _spread(self, scores, count):
        """`(N, num_v)` sketches; other entries hold a number above all scores."""
        last = ops.maximum(count - 1, 0)
        ordered = ops.sort(scores, axis=1)

        def at(place):
            return ops.take_along_axis(ordered, ops.clip(place, 0, last), axis=1)

        low, high = at(0 * last), at(last)
        before = ops.where(count > 1, ops.maximum(2.0 * low - at(0 * last + 1), -1.0), low)
        after = ops.where(count > 1, ops.minimum(2.0 * high - at(last - 1), 1.0), high)
        spread = (self.num_v + ops.maximum(count, 1) - 1) // ops.maximum(count, 1)
        places = ops.arange(self.num_v, dtype="int32")[None, :]
        rank = places // spread
        along = ops.cast(places - rank * spread, scores.dtype) / ops.cast(spread, scores.dtype)
        current = at(rank)
        previous = ops.where(rank == 0, before, at(rank - 1))
        following = ops.where(rank >= last, after, at(rank + 1))
        return 0.5 * (previous + along * (current - previous) + current + along * (following - current))


def _priors_of_counts(prior_mul: float, counts: Sequence[int] | None, num_classes: int) -> list[float]:
    if not 0 < prior_mul < 1:
        raise ValueError(f"`prior_mul` must lie between 0 and 1. Received: prior_mul={prior_mul}")
    if counts is None or len(counts) != num_classes or min(counts) < 0 or not max(counts):
        raise ValueError(
            f"`prior_mul` needs `class_counts`, {num_classes} numbers, not all 0. Received: class_counts={counts}"
        )
    largest = max(counts)
    return [prior_mul * count / largest for count in counts]


def semi_variance(scores, positives, negatives, lam1: float, lam2: float):
    """Mean squared distance of low positives and high negatives from the mean of their kind, weighted and added."""
    low = mean_where(scores, positives) - scores
    high = scores - mean_where(scores, negatives)
    below = mean_where(ops.square(low), ops.logical_and(positives, low > 0))
    above = mean_where(ops.square(high), ops.logical_and(negatives, high > 0))
    return lam1 * below + lam2 * above
