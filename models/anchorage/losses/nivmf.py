"""Non-isotropic probabilistic proxies: Kirchhof, Roth, Akata & Kasneci, ECCV 2022."""

import math
from types import MappingProxyType

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative, check_positive
from anchorage.geometry import (
    cosine_similarities,
    dot_products,
    masked_log1p_sum_exp,
    squared_distances,
    unit_rows,
)
from anchorage.losses._vmf import draw_vmf, log_normalizer, mean_resultant
from anchorage.losses.base import LossLayer
from anchorage.proxies.logits import over_classes, split_target_logit
from anchorage.seeds import SavedSeedGenerator

METRICS = ("cos", "l2", "nivmf", "ppk", "neg_kl", "el_nivmf")
_NON_ISOTROPIC = ("nivmf", "el_nivmf")
_LEAST_CONCENTRATION = 0.1
_SHORTEST = 1e-12  # floor under a squared length
_ALPHA, _DELTA = 32.0, 0.1  # Proxy-Anchor's constants in the guidance


@keras.saving.register_keras_serializable(package="anchorage")
class NivMFLoss(LossLayer):
    """Proxies that are distributions on the sphere; the norm of an embedding is its certainty.

    An embedding z is a von Mises-Fisher distribution with direction `u = z / |z|` and concentration `|z|`: the encoder
    must not normalize it. Class c has a unit direction `m_c` and concentrations `k_c`, one per coordinate
    (`"nivmf"`, `"el_nivmf"`) or a single one. With temperature t and C_D the normaliser of the distribution:

        loss = mean_n [ -h_{n y_n} + log sum_c exp(h_nc) ] + guidance * Proxy-Anchor on the directions
        "cos":      h = u.m_c / t                       "l2":   h = -|z - k_c m_c|^2 / t
        "nivmf":    h = log f_c(u) / t,   log f_c(x) = log C_D(|K m|) + |K m| cos(K x, K m) + G
        "ppk":      h = (rho (log C(|z|) + log C(k_c)) - log C(rho |z + k_c m_c|)) / t
                    expected likelihood at rho = 1, Bhattacharyya at 1/2
        "neg_kl":   h = (log C(k_c) - log C(|z|) - A (|z| - k_c u.m_c)) / t
        "el_nivmf": h = log mean_s exp(log f_c(x_s) / t),   samples x_s of the distribution of z

    `G` is `sum log k_cd - log |K m|` in the published code (`normaliser="repo"`), and `sum log k_cd - D log |K x|` for
    a density that integrates to 1 (`"exact"`). Retrieval uses plain cosines.

    `published_code=True` reproduces three approximations of the published code. Its sampler is biased for
    concentrations above 10 unless they are well above D: at D = 128 and a concentration of 50 the mean cosine with the
    direction is 0.22 instead of 0.345. Its log C is a quadratic fitted at D = 128 and 512. Its samples are compared by
    `cos(x, K m)` instead of `cos(K x, K m)`.

    Defaults: temperature 0.003 and 5 samples of `example_runs.sh`, concentration, rho and guidance of `parameters.py`
    in the published code (ExplainableML/Probabilistic_Deep_Metric_Learning), without its approximations.

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        metric: see above.
        temp: initial temperature, positive; its logarithm is trained as the weight `log_temp`.
        concentration: initial concentrations, at least 0.1, which is also their lower bound.
        samples: number of samples per embedding, for `"el_nivmf"`.
        guidance: weight of Proxy-Anchor on the directions, at least 0.
        rho: power of the product kernel, positive.
        normaliser: `"repo"`, `"exact"` or `"none"`: the term G.
        mean_resultant: `"one"` or `"exact"`: the factor A of `"neg_kl"`.
        published_code: see above; only to reproduce published runs.
        seed: of the samples.

    Call arguments:
        embeddings: `(N, D)` float tensor, D at least 3, rows not of unit length.

    Returns:
        Scalar float32 tensor, at least 0. A compiled call with a label outside the proxies gives nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit together, or (eager calls) a label outside the
            proxies.

    Example:
        >>> loss = NivMFLoss(num_classes=3, metric="nivmf", temp=1.0)
        >>> bool(loss(10.0 * keras.ops.eye(3), keras.ops.array([0, 1, 2])) > 0)
        True
    """

    dense_labels = True
    _removed = MappingProxyType({"log_c": "accurate", "sampler_b": "exact", "scale_sample_by_kappa": True})
    _replaced = (
        ({"log_c": "debye3"}, {}),
        ({"log_c": "poly", "sampler_b": "repo", "scale_sample_by_kappa": False}, {"published_code": True}),
    )

    def __init__(
        self,
        num_classes: int,
        metric: str = "el_nivmf",
        temp: float = 0.003,
        concentration: float = 10.0,
        samples: int = 5,
        guidance: float = 0.0,
        rho: float = 1.0,
        normaliser: str = "repo",
        mean_resultant: str = "one",
        published_code: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(num_classes=num_classes, samples=samples)
        check_positive(temp=temp, rho=rho)
        check_not_negative(guidance=guidance)
        if concentration < _LEAST_CONCENTRATION:
            raise ValueError(
                f"`concentration` must be at least {_LEAST_CONCENTRATION}. Received: concentration={concentration}"
            )
        choices = {
            "metric": (metric, METRICS),
            "normaliser": (normaliser, ("repo", "exact", "none")),
            "mean_resultant": (mean_resultant, ("one", "exact")),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(f"`{name}` must be one of {list(known)}. Received: {name}={value!r}")
        self.num_classes = num_classes
        self.metric = metric
        self.temp = temp
        self.concentration = concentration
        self.samples = samples
        self.guidance = guidance
        self.rho = rho
        self.normaliser = normaliser
        self.mean_resultant = mean_resultant
        self.published_code = published_code
        self.seed = seed
        self._approximation = "poly" if published_code else "accurate"
        self._draws = SavedSeedGenerator(seed)

    def build(self, embeddings_shape, labels_shape):
        dim = embeddings_shape[-1]
        if dim < 3:
            raise ValueError(f"Expected embeddings of size 3 or more. Received: {dim}")
        self.proxies = self.add_weight(name="proxies", shape=(self.num_classes, dim), initializer="random_normal")
        if self.metric != "cos":
            shape = (self.num_classes, dim) if self.metric in _NON_ISOTROPIC else (self.num_classes,)
            start = keras.initializers.Constant(self.concentration)
            self.concentrations = self.add_weight(name="concentrations", shape=shape, initializer=start)
        start = keras.initializers.Constant(math.log(self.temp))
        self.log_temp = self.add_weight(name="log_temp", shape=(), initializer=start)

    def compute(self, embeddings, labels):
        points = embeddings
        if self.metric == "el_nivmf":
            directions, lengths = unit_rows(embeddings), _length(embeddings)
            points = draw_vmf(directions, lengths, self.samples, self._draws.generator, self.published_code)
        loss = ops.mean(self.costs(points, labels))
        if self.guidance:
            loss = loss + self.guidance * guide(cosine_similarities(embeddings, self.proxies), labels)
        return loss

    def costs(self, points, labels):
        """`(N,)`: `log sum exp` over the classes minus the similarity to the target class.

        Args:
            points: `(N, D)` embeddings, or for `"el_nivmf"` samples `(S, N, D)`.
            labels: `(N,)` integer tensor of class ids.
        """

        def of_part(ids, *rest):
            *classes, points, temp = rest
            return ops.stack(split_target_logit(self._similarities(points, temp, *classes), ids, labels))[None]

        samples = points.shape[0] if self.metric == "el_nivmf" else 1
        memory = (points.shape[-2], 3 * samples)  # two products, and what is made of them
        temp = ops.exp(self.log_temp)
        found = over_classes(of_part, self._classes(), points, temp, memory_per_class=memory)
        # Softplus of the difference is accurate for confident predictions.
        return ops.softplus(ops.logsumexp(found[:, 1], axis=0) - ops.sum(found[:, 0], axis=0))

    def similarities(self, points):
        """`(N, C)`: the `h` of embeddings `(N, D)`, or for `"el_nivmf"` of samples `(S, N, D)`, with all classes."""
        return self._similarities(points, ops.exp(self.log_temp), *self._classes())

    def _classes(self):
        """Directions, `(C, D)`, and concentrations, `(C, D)` or `(C,)`, if the metric has them."""
        directions = unit_rows(ops.convert_to_tensor(self.proxies))
        if self.metric == "cos":
            return (directions,)
        return directions, ops.maximum(ops.convert_to_tensor(self.concentrations), _LEAST_CONCENTRATION)

    def _similarities(self, z, temp, directions, kappa=None):
        if self.metric == "cos":
            return dot_products(unit_rows(z), directions) / temp
        if self.metric == "l2":
            return -squared_distances(z, kappa[:, None] * directions) / temp
        if self.metric == "nivmf":
            return self._log_density(unit_rows(z), temp, directions, kappa, True)
        if self.metric == "el_nivmf":
            flat = ops.reshape(z, (-1, z.shape[2]))
            densities = self._log_density(flat, temp, directions, kappa, not self.published_code)
            densities = ops.reshape(densities, (z.shape[0], -1, ops.shape(directions)[0]))
            return ops.logsumexp(densities, axis=0) - math.log(z.shape[0])
        length = _length(z)
        own, theirs = self._log_c(length, z)[:, None], self._log_c(kappa, z)[None, :]
        if self.metric == "neg_kl":
            shrink = mean_resultant(length, z.shape[1]) if self.mean_resultant == "exact" else ops.ones_like(length)
            cosines = dot_products(unit_rows(z), directions)
            return (theirs - own - shrink[:, None] * (length[:, None] - kappa[None, :] * cosines)) / temp
        dots = dot_products(z, kappa[:, None] * directions)
        joint = ops.square(length)[:, None] + 2.0 * dots + ops.square(kappa)[None, :]
        joint = ops.sqrt(ops.maximum(joint, _SHORTEST))
        return (self.rho * (own + theirs) - self._log_c(self.rho * joint, z)) / temp

    def _log_density(self, x, temp, directions, kappa, scale: bool):
        """`log f_c(x) / t`: `(N, C)`. Terms per class are added up first, to save `(N, C)` tensors."""
        dim = x.shape[1]
        scaled = kappa * directions
        length = _length(scaled)
        of_class = self._log_c(length, x)
        if self.normaliser != "none":
            of_class = of_class + ops.sum(ops.log(kappa), axis=1)
        if self.normaliser == "repo":
            of_class = of_class - ops.log(length)
        shrink = None
        if scale or self.normaliser == "exact":
            shrink = ops.rsqrt(dot_products(ops.square(x), ops.square(kappa)) + _SHORTEST)  # 1 / |kappa x|
        density = dot_products(x, scaled * kappa / temp) * shrink if scale else dot_products(x, scaled / temp)
        if self.normaliser == "exact":
            density = density + dim / temp * ops.log(shrink)
        return density + (of_class / temp)[None, :]

    def _log_c(self, kappa, like):
        return log_normalizer(kappa, like.shape[1], self._approximation, relative=True)


def guide(cosines, labels):
    """Proxy-Anchor on `(N, C)` cosines; positives are averaged over the batch instead of the classes in it."""
    own = ops.take_along_axis(cosines, labels[:, None], axis=1)[:, 0]
    same = ops.equal(labels[:, None], labels[None, :])
    exponents = ops.broadcast_to(_ALPHA * (_DELTA - own)[None, :], ops.shape(same))
    others = labels[:, None] != ops.arange(cosines.shape[1], dtype="int32")[None, :]
    pull = ops.mean(masked_log1p_sum_exp(exponents, same, axis=1))
    return pull + ops.mean(masked_log1p_sum_exp(_ALPHA * (cosines + _DELTA), others, axis=0))


def _length(rows):
    return ops.sqrt(ops.maximum(ops.sum(ops.square(rows), axis=1), _SHORTEST))
