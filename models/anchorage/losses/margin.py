"""Margin loss with a learned boundary and distance-weighted sampling: Wu et al., ICCV 2017, equation 5."""

from types import MappingProxyType

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative
from anchorage.geometry import find_measure, squared_distances
from anchorage.losses.base import LossLayer
from anchorage.mining.distance_weighted import count_drawn_negatives, negative_probabilities
from anchorage.pairs.references import compare
from anchorage.seeds import SavedSeedGenerator

_INSIDE_ROOT = 1e-8
_FARTHEST = 2.0  # distance of opposite unit rows


@keras.saving.register_keras_serializable(package="anchorage")
class MarginLoss(LossLayer):
    """Keeps positives nearer than a learned boundary and negatives farther, both by a margin.

    Formula, over triplets (a, p, n), with the boundary `beta` of the anchor's class:

        lp = max(0, d_ap - beta + margin),    ln = max(0, beta - d_an + margin)
        loss = (sum (lp + ln) + nu sum beta) / number of terms above 0

    With `mining="distance_weighted"` each ordered pair (a, p) gets one negative, drawn as in
    `anchorage.mining.distance_weighted`, which needs unit rows; with `"all"` it gets every negative.

    Defaults: 0.2, 1.2, nu 0, cutoffs 0.5 and 1.4: `example/gluon/embedding_learning` of MXNet, by the authors; 0.2 and
    1.2 are the paper's too (`docs/losses.md` of pytorch-metric-learning 2.9, MarginLoss).

    Args:
        margin: half the wanted gap (alpha in the paper), at least 0.
        beta: initial boundary, a distance in (0, 2), or what `distance` measures.
        nu: weight of the sum of the boundaries, at least 0.
        beta_per_class: one boundary per class instead of a single one.
        learn_beta: train the boundary. It gets a learning rate of its own by `rate_factors={"margin_loss": ...}`; the
            name of the weight, `beta`, is also that of the offsets in batch normalization.
        num_classes: number of training classes; needed with `beta_per_class`.
        clip_beta: clip the boundary to [0, 2], the range of distances on unit rows, which a high learning rate can
            leave.
        mining: `"distance_weighted"` or `"all"`.
        triplets_per_anchor: number of triplets drawn for each anchor, at most the batch size: the positive uniformly,
            the negative by `mining`, uniformly for `"all"`. 1 is the paper's single random positive. None takes every
            positive once.
        distance: `"euclidean"`, or any other name of `anchorage.geometry.MEASURES`; for a similarity all differences
            change sign, and the boundary is a similarity. Negatives are always drawn by Euclidean distance.
        cutoff: distances below are raised to it for sampling, in (0, 2).
        nonzero_loss_cutoff: negatives at or beyond this distance are not drawn; above `cutoff`.
        seed: of the draws.
        normalize: normalize the embeddings first.

    Call arguments:
        embeddings: `(N, D)` float tensor, D at least 2.
        references: pairs chosen by a wrapper; None compares the batch with itself.

    Returns:
        Scalar float32 tensor; 0 for a batch without triplets. A compiled call with a label outside the classes gives
        nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit together, or (eager calls) a label outside the
            classes.

    Example:
        >>> loss = MarginLoss(beta_per_class=False)
        >>> float(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])))  # no two of a class
        0.0
    """

    takes = ("references",)
    _removed = MappingProxyType({"positives_per_anchor": "all"})
    _replaced = (({"positives_per_anchor": "one"}, {"triplets_per_anchor": 1}),)

    def __init__(
        self,
        margin: float = 0.2,
        beta: float = 1.2,
        nu: float = 0.0,
        beta_per_class: bool = True,
        learn_beta: bool = True,
        num_classes: int | None = None,
        clip_beta: bool = False,
        mining: str = "distance_weighted",
        cutoff: float = 0.5,
        nonzero_loss_cutoff: float = 1.4,
        seed: int = 0,
        normalize: bool = True,
        triplets_per_anchor: int | None = None,
        distance: str = "euclidean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(margin=margin, nu=nu)
        if triplets_per_anchor is not None:
            check_at_least_one(triplets_per_anchor=triplets_per_anchor)
        self._measure = find_measure(distance)
        if clip_beta and distance != "euclidean":
            raise ValueError(f"`clip_beta` needs distance='euclidean'. Received: distance={distance!r}")
        if num_classes is not None:
            check_at_least_one(num_classes=num_classes)
        if distance == "euclidean" and not 0 < beta < 2:
            raise ValueError(f"`beta` must lie between 0 and 2. Received: beta={beta}")
        if beta_per_class and num_classes is None:
            raise ValueError("`num_classes` is needed with beta_per_class=True. Received: num_classes=None")
        if mining not in ("distance_weighted", "all"):
            raise ValueError(f"`mining` must be 'distance_weighted' or 'all'. Received: mining={mining!r}")
        if not 0 < cutoff < 2:
            raise ValueError(f"`cutoff` must lie between 0 and 2. Received: cutoff={cutoff}")
        if not cutoff < nonzero_loss_cutoff:
            raise ValueError(
                "`nonzero_loss_cutoff` must be above `cutoff`. "
                f"Received: cutoff={cutoff}, nonzero_loss_cutoff={nonzero_loss_cutoff}"
            )
        self.margin = margin
        self.beta = beta
        self.nu = nu
        self.beta_per_class = beta_per_class
        self.learn_beta = learn_beta
        self.num_classes = num_classes
        self.clip_beta = clip_beta
        self.mining = mining
        self.cutoff = cutoff
        self.nonzero_loss_cutoff = nonzero_loss_cutoff
        self.seed = seed
        self.normalize = normalize
        self.triplets_per_anchor = triplets_per_anchor
        self.distance = distance
        self._draws = SavedSeedGenerator(seed)

    @property
    def label_range(self):
        return self.num_classes if self.beta_per_class else None

    def build(self, embeddings_shape, labels_shape):
        if embeddings_shape[-1] < 2:
            raise ValueError(f"Expected embeddings of size 2 or more. Received: {embeddings_shape[-1]}")
        self.boundaries = self.add_weight(
            name="beta",
            shape=(self.num_classes if self.beta_per_class else 1,),
            initializer=keras.initializers.Constant(self.beta),
            trainable=self.learn_beta,
            constraint=(lambda beta: ops.clip(beta, 0.0, _FARTHEST)) if self.clip_beta else None,
        )

    def compute(self, embeddings, labels, references=None):
        pairs = compare(embeddings, labels, references, self.normalize)
        some = ops.any(pairs.negatives, axis=1, keepdims=True)
        positives = ops.cast(ops.logical_and(pairs.positives, some), pairs.rows.dtype)
        times = ops.sum(positives, axis=1, keepdims=True)
        if self.triplets_per_anchor is not None:
            positives, drawn = self._draw_triplets(pairs, positives)
        elif self.mining == "all":
            negatives = ops.cast(pairs.negatives, positives.dtype)
            drawn, positives = negatives * times, positives * ops.sum(negatives, axis=1, keepdims=True)
        else:
            drawn = count_drawn_negatives(self._probabilities(pairs), times[:, 0], self._draws.generator)
        return self.cost(pairs.rows, pairs.columns, labels, ops.stop_gradient(positives), ops.stop_gradient(drawn))

    def _probabilities(self, pairs):
        distances = ops.stop_gradient(ops.sqrt(squared_distances(pairs.rows, pairs.columns)))
        return negative_probabilities(
            distances, pairs.negatives, pairs.rows.shape[1], self.cutoff, self.nonzero_loss_cutoff
        )

    def _draw_triplets(self, pairs, positives):
        """Two `(N, M)` counts: how often each column is drawn as positive, and as negative, of each anchor."""
        negatives = self._probabilities(pairs) if self.mining != "all" else _uniform(pairs.negatives, positives.dtype)
        wanted = ops.cast(ops.minimum(self.triplets_per_anchor, ops.shape(positives)[1]), positives.dtype)
        times = wanted * ops.cast(ops.any(positives > 0, axis=1), positives.dtype)
        shares = _uniform(positives > 0, positives.dtype), negatives
        return tuple(count_drawn_negatives(share, times, self._draws.generator) for share in shares)

    def cost(self, rows, columns, labels, positives, negatives):
        """The loss for given triplets.

        Args:
            rows: `(N, D)` float tensor of anchors, used as it is.
            columns: `(M, D)` float tensor of what they are compared with.
            labels: `(N,)` integer tensor of the anchors.
            positives: `(N, M)`, the number of triplets with column j as the positive of anchor i.
            negatives: `(N, M)`, the number of triplets with column j as the negative of anchor i.
        """
        if self.distance == "euclidean":
            distances = ops.sqrt(squared_distances(rows, columns) + _INSIDE_ROOT)
        else:
            distances = self._measure.matrix(rows, columns)
        boundaries = self._boundaries(labels)
        beyond = self._measure.sign * (distances - boundaries[:, None])
        pull = ops.relu(beyond + self.margin)
        push = ops.relu(self.margin - beyond)
        total = ops.sum(positives * pull + negatives * push)
        if self.nu:
            total = total + self.nu * ops.sum(ops.sum(positives, axis=1) * boundaries)
        active = positives * ops.cast(pull > 0, rows.dtype) + negatives * ops.cast(push > 0, rows.dtype)
        return total / ops.maximum(ops.sum(active), 1.0)

    def _boundaries(self, labels):
        if not self.beta_per_class:
            return ops.broadcast_to(self.boundaries, ops.shape(labels))
        return ops.take(self.boundaries, labels, axis=0)


def _uniform(mask, dtype):
    """Uniform probabilities over each row of a mask."""
    shares = ops.cast(mask, dtype)
    return shares / ops.maximum(ops.sum(shares, axis=1, keepdims=True), 1.0)
