"""A generator of embeddings of novel classes, after the idea of Lee, Kim, Hong & Kwak, BMVC 2021.

Only the abstract of that paper was open to us. It names a generator of embeddings, conditioned on a class and on noise,
that gives a proxy loss classes which the data does not have. The network and its losses below are our own.
"""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative, check_positive
from anchorage.geometry import dot_products, unit_rows
from anchorage.labels import check_class_labels
from anchorage.methods._novel_classes import check_takes_novel_classes, with_novel_classes
from anchorage.methods.method import Method
from anchorage.seeds import SavedSeedGenerator

_TINY = 1e-12  # floor under a squared distance: keeps the gradient of sqrt finite


@keras.saving.register_keras_serializable(package="anchorage")
class EmbeddingGenerator(keras.layers.Layer):
    """Turns class directions and noise into embeddings of unit length.

    Formula:

        g = unit(q + ReLU([q; z] W1 + b1) W2 + b2)

    Args:
        hidden: width of the hidden layer.

    Call arguments:
        conditions: `(N, D)` class directions q.
        noise: `(N, Z)` noise z.

    Returns:
        `(N, D)` tensor with rows of unit length.
    """

    def __init__(self, hidden: int, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.hidden = hidden

    def build(self, conditions_shape, noise_shape):
        size = conditions_shape[-1]
        self.inward = keras.layers.Dense(self.hidden, activation="relu", name="inward", dtype=self.dtype_policy)
        self.outward = keras.layers.Dense(size, name="outward", dtype=self.dtype_policy)
        self.inward.build((None, size + noise_shape[-1]))
        self.outward.build((None, self.hidden))

    def call(self, conditions, noise):
        return unit_rows(conditions + self.outward(self.inward(ops.concatenate([conditions, noise], axis=1))))

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden}


@keras.saving.register_keras_serializable(package="anchorage")
class NovelClassGenerator(Method):
    """Trains a small generator of embeddings beside the encoder, and lets it play classes the data does not have.

    Every step the generator learns, embeddings x and proxies p held constant, from `g_i = G(p_{y_i}, z_i)` and a second
    one `g'_i` with other noise:

        L_G = L_cls + w_real L_real + w_div L_div
        L_cls   normalised softmax of g_i against the proxies, the scale being `scale`
        L_real  mean over classes with two rows or more of |mean x - mean g|^2 + |var x - var g|^2
        L_div   mean_i max(0, delta - |g_i - g'_i| / |z_i - z'_i|)

    After `warmup` epochs the loss gets novel classes: proxies `q_k = unit(l p_a + (1 - l) p_b)` of two random classes,
    l from Beta(kappa, kappa), and `samples` embeddings `G(q_k, z)` of each. Gradients flow through q_k into the
    proxies, none into the generator. What a step reports is the loss plus L_G.

    One optimizer trains both, the generator with the embeddings of the step before. Give the generator a rate of its
    own with the optimizer's `rate_factors`, as `generator`: it wants 1e-3 with Adam.

    Args:
        num_classes: number of training classes C, at least 2.
        embedding_size: length D of an embedding.
        steps_per_epoch: training steps in an epoch, to tell when the warm-up is over.
        warmup: epochs without novel classes, at least 0.
        classes: novel classes in a step; None for half as many as the batch has rows, at most C.
        samples: embeddings of each novel class, at least 1.
        noise_size: length of z, at least 1.
        hidden: width of the generator's hidden layer, at least 1.
        scale: of the softmax in `L_cls`, positive.
        delta: spread below which `L_div` starts to cost, at least 0.
        w_real: weight of `L_real`, at least 0.
        w_div: weight of `L_div`, at least 0.
        kappa: of the Beta distribution, positive.
        seed: of what is drawn.

    Raises:
        ValueError: on a parameter out of range, or (eager calls) a label outside the classes.
        UsageError: E_METHOD_LOSS if the loss cannot take novel classes.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        steps_per_epoch: int,
        warmup: int = 5,
        classes: int | None = None,
        samples: int = 2,
        noise_size: int = 64,
        hidden: int = 512,
        scale: float = 23.0,
        delta: float = 0.2,
        w_real: float = 1.0,
        w_div: float = 0.1,
        kappa: float = 1.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(samples=samples, noise_size=noise_size, hidden=hidden)
        check_positive(scale=scale, kappa=kappa)
        check_not_negative(warmup=warmup, delta=delta, w_real=w_real, w_div=w_div)
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2. Received: num_classes={num_classes}")
        if classes is not None:
            check_at_least_one(classes=classes)
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.steps_per_epoch = steps_per_epoch
        self.warmup = warmup
        self.classes = classes
        self.samples = samples
        self.noise_size = noise_size
        self.hidden = hidden
        self.scale = scale
        self.delta = delta
        self.w_real = w_real
        self.w_div = w_div
        self.kappa = kappa
        self.seed = seed
        self._draws = SavedSeedGenerator(seed)
        self.generator = EmbeddingGenerator(hidden, name="generator", dtype=self.dtype_policy)

    def prepare(self, learner):
        check_takes_novel_classes(learner.loss_layer)
        self._proxies = lambda: learner.loss_layer.proxies  # a layer kept here would be saved a second time
        self.build_generator()
        self.steps = self.add_weight(name="steps", shape=(), dtype="int32", initializer="zeros", trainable=False)

    def build_generator(self):
        """Make the generator's weights."""
        self.generator.build((None, self.embedding_size), (None, self.noise_size))
        self.generator.built = True

    def loss(self, step, inner):
        labels, in_range = check_class_labels(step.labels, self.num_classes)
        rows = ops.cast(step.embeddings, self.compute_dtype)
        proxies = ops.convert_to_tensor(self._proxies())
        noise = [self._draw_noise(ops.shape(labels)[0]) for _ in range(2)]
        of_generator = self.generator_loss(rows, labels, proxies, *noise)
        with_novel = with_novel_classes(step, self.num_classes, *self._draw_novel(labels, proxies))
        # Kept small for ever: only whether the warm-up is over matters.
        warm = self.warmup * self.steps_per_epoch
        loss = ops.cond(self.steps >= warm, lambda: inner(with_novel), lambda: inner(step)) if warm else None
        loss = inner(with_novel) if loss is None else loss
        self.steps.assign(ops.minimum(self.steps + 1, warm))
        return (loss + of_generator) * ops.cast(in_range, loss.dtype)

    def generator_loss(self, embeddings, labels, proxies, noise, other_noise):
        """What the generator is to bring down; embeddings and proxies count as constant."""
        return sum(
            weight * part
            for weight, part in zip(
                (1.0, self.w_real, self.w_div),
                self.generator_losses(embeddings, labels, proxies, noise, other_noise),
                strict=True,
            )
        )

    def generator_losses(self, embeddings, labels, proxies, noise, other_noise):
        """`L_cls`, `L_real` and `L_div`."""
        embeddings = unit_rows(ops.stop_gradient(embeddings))
        proxies = unit_rows(ops.stop_gradient(proxies))
        conditions = ops.take(proxies, labels, axis=0)
        made, others = self.generator(conditions, noise), self.generator(conditions, other_noise)
        logits = self.scale * dot_products(made, proxies)
        own = ops.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        spread = _lengths(made - others) / _lengths(noise - other_noise)
        return (
            ops.mean(ops.logsumexp(logits, axis=1) - own),
            unlike_statistics(embeddings, made, labels),
            ops.mean(ops.relu(self.delta - spread)),
        )

    def novel(self, proxies, first, second, mixing, noise):
        """Rows, their places, and proxies of novel classes between the classes `first` and `second`.

        Args:
            proxies: `(C, D)`.
            first: `(K,)` class ids.
            second: `(K,)` class ids.
            mixing: `(K,)` shares of the first, in [0, 1].
            noise: `(K * samples, noise_size)`, all of one class together.
        """
        proxies, mixing = unit_rows(proxies), mixing[:, None]
        mixed = mixing * ops.take(proxies, first, axis=0) + (1.0 - mixing) * ops.take(proxies, second, axis=0)
        mixed = unit_rows(mixed)
        places = ops.repeat(ops.arange(ops.shape(first)[0], dtype="int32"), self.samples)
        rows = self.generator(ops.stop_gradient(ops.take(mixed, places, axis=0)), noise)
        return ops.stop_gradient(rows), places, mixed

    def _draw_novel(self, labels, proxies):
        count = self.classes
        if count is None:
            half = ops.shape(labels)[0] // 2
            count = min(half, self.num_classes) if isinstance(half, int) else ops.minimum(half, self.num_classes)
        draws = {"seed": self._draws.generator}
        first = keras.random.randint((count,), 0, self.num_classes, **draws)
        second = ops.mod(first + keras.random.randint((count,), 1, self.num_classes, **draws), self.num_classes)
        mixing = keras.random.beta((count,), self.kappa, self.kappa, dtype=self.compute_dtype, **draws)
        return self.novel(proxies, first, second, mixing, self._draw_noise(count * self.samples))

    def _draw_noise(self, count):
        return keras.random.normal((count, self.noise_size), dtype=self.compute_dtype, seed=self._draws.generator)

    def get_config(self):
        names = (
            "num_classes",
            "embedding_size",
            "steps_per_epoch",
            "warmup",
            "classes",
            "samples",
            "noise_size",
            "hidden",
            "scale",
            "delta",
            "w_real",
            "w_div",
            "kappa",
            "seed",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def unlike_statistics(real, made, labels):
    """How far means and variances of two sets of rows are apart, class by class.

    Args:
        real: `(N, D)`.
        made: `(N, D)`.
        labels: `(N,)` integers, of both.

    Returns:
        Scalar: mean over the classes with at least two rows of the squared distance of the means plus that of the
        variances; 0 without such a class.
    """
    same = ops.cast(labels[:, None] == labels[None, :], real.dtype)
    counts = ops.sum(same, axis=1)
    share = same / counts[:, None]
    means = [ops.matmul(share, rows) for rows in (real, made)]
    variances = [ops.matmul(share, ops.square(rows - mean)) for rows, mean in zip((real, made), means, strict=True)]
    apart = sum(ops.sum(ops.square(ours - theirs), axis=1) for ours, theirs in (means, variances))
    weights = ops.where(counts >= 2, 1.0 / counts, 0.0)  # every class counts once
    return ops.sum(weights * apart) / ops.maximum(ops.sum(weights), 1.0)


def _lengths(rows):
    return ops.sqrt(ops.maximum(ops.sum(ops.square(rows), axis=1), _TINY))
