"""A generator of embeddings of novel classes, after the idea of Lee, Kim, Hong & Kwak, BMVC 2021.

We could consult only the abstract of the paper: a generator of embeddings, conditioned on a class and on noise, adds
novel classes to a proxy loss. The network and its losses are our own.
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
    """Maps class vectors and noise to embeddings of unit norm.

    Formula:

        g = unit(q + ReLU([q; z] W1 + b1) W2 + b2)

    Args:
        hidden: units of the hidden layer.

    Call arguments:
        conditions: `(N, D)` class vectors q, L2-normalized.
        noise: `(N, Z)` noise z.

    Returns:
        `(N, D)` unit vectors.
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
    """Trains a generator of embeddings with the encoder, and adds generated novel classes to a proxy loss.

    Every step trains the generator G, with embeddings x and proxies p held constant, on `g_i = G(p_{y_i}, z_i)` and a
    second sample `g'_i` with noise `z'_i`:

        L_G = L_cls + w_real L_real + w_div L_div
        L_cls   normalized softmax of g_i against the proxies with scale `scale`
        L_real  mean over classes with at least two rows of |mean x - mean g|^2 + |var x - var g|^2
        L_div   mean_i max(0, delta - |g_i - g'_i| / |z_i - z'_i|)

    After `warmup` epochs, the wrapped loss receives novel classes with proxies `q_k = unit(l p_a + (1 - l) p_b)`, for
    two random classes a, b and l from Beta(kappa, kappa), and `samples` embeddings `G(q_k, z)` each. Gradients flow
    through q_k into the proxies, but not into the generator. The reported loss is the wrapped loss plus L_G.

    A single optimizer updates encoder and generator simultaneously, instead of alternating steps. Set
    the learning rate of the generator with `rate_factors`, under the name `generator`; 1e-3 works well with Adam.

    Args:
        num_classes: number of training classes C, at least 2.
        embedding_size: embedding size D.
        steps_per_epoch: training steps per epoch.
        warmup: epochs without novel classes, at least 0.
        classes: novel classes per step; None for half the batch size, at most C.
        samples: embeddings per novel class, at least 1.
        noise_size: size of z, at least 1.
        hidden: units of the hidden layer of the generator, at least 1.
        scale: scale of the softmax in `L_cls`, positive.
        delta: desired diversity in `L_div`, at least 0.
        w_real: weight of `L_real`, at least 0.
        w_div: weight of `L_div`, at least 0.
        kappa: parameter of the Beta distribution, positive.
        seed: of the random classes, mixing weights and noise.

    Raises:
        ValueError: if an argument is out of range or (eager calls) a label is out of range.
        UsageError: E_METHOD_LOSS if the loss does not accept novel classes.
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
        self._proxies = lambda: learner.loss_layer.proxies  # Keras would save a layer in an attribute a second time
        self.build_generator()
        self.steps = self.add_weight(name="steps", shape=(), dtype="int32", initializer="zeros", trainable=False)

    def build_generator(self):
        """Create the weights of the generator."""
        self.generator.build((None, self.embedding_size), (None, self.noise_size))
        self.generator.built = True

    def loss(self, step, inner):
        labels, in_range = check_class_labels(step.labels, self.num_classes)
        rows = ops.cast(step.embeddings, self.compute_dtype)
        proxies = ops.convert_to_tensor(self._proxies())
        noise = [self._draw_noise(ops.shape(labels)[0]) for _ in range(2)]
        generator_loss = self.generator_loss(rows, labels, proxies, *noise)
        extended = with_novel_classes(step, self.num_classes, *self._draw_novel(labels, proxies))
        warmup_steps = self.warmup * self.steps_per_epoch
        if warmup_steps:
            loss = ops.cond(self.steps >= warmup_steps, lambda: inner(extended), lambda: inner(step))
        else:
            loss = inner(extended)
        self.steps.assign(ops.minimum(self.steps + 1, warmup_steps))  # stops counting after the warm-up
        return (loss + generator_loss) * ops.cast(in_range, loss.dtype)

    def generator_loss(self, embeddings, labels, proxies, noise, other_noise):
        """`L_G`; no gradient flows into the embeddings or proxies."""
        classification, realism, diversity = self.generator_losses(embeddings, labels, proxies, noise, other_noise)
        return classification + self.w_real * realism + self.w_div * diversity

    def generator_losses(self, embeddings, labels, proxies, noise, other_noise):
        """`L_cls`, `L_real` and `L_div`."""
        embeddings = unit_rows(ops.stop_gradient(embeddings))
        proxies = unit_rows(ops.stop_gradient(proxies))
        conditions = ops.take(proxies, labels, axis=0)
        generated, others = self.generator(conditions, noise), self.generator(conditions, other_noise)
        logits = self.scale * dot_products(generated, proxies)
        target = ops.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        diversity = _norms(generated - others) / _norms(noise - other_noise)
        return (
            ops.mean(ops.logsumexp(logits, axis=1) - target),
            statistics_distance(embeddings, generated, labels),
            ops.mean(ops.relu(self.delta - diversity)),
        )

    def novel(self, proxies, first, second, mixing, noise):
        """Generate K novel classes between the classes `first` and `second`.

        Args:
            proxies: `(C, D)` real proxies.
            first: `(K,)` class ids.
            second: `(K,)` class ids.
            mixing: `(K,)` weights of the first classes, in [0, 1].
            noise: `(K * samples, noise_size)` noise, grouped by class.

        Returns:
            `(K * samples, D)` embeddings, their `(K * samples,)` novel class numbers from 0, and `(K, D)` proxies.
        """
        proxies, mixing = unit_rows(proxies), mixing[:, None]
        mixed = mixing * ops.take(proxies, first, axis=0) + (1.0 - mixing) * ops.take(proxies, second, axis=0)
        mixed = unit_rows(mixed)
        labels = ops.repeat(ops.arange(ops.shape(first)[0], dtype="int32"), self.samples)
        rows = self.generator(ops.stop_gradient(ops.take(mixed, labels, axis=0)), noise)
        return ops.stop_gradient(rows), labels, mixed

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


def statistics_distance(real, generated, labels):
    """Squared distance between the class means and variances of two sets of embeddings.

    Args:
        real: `(N, D)` float tensor.
        generated: `(N, D)` float tensor.
        labels: `(N,)` integer labels of both.

    Returns:
        Scalar: mean over the classes with at least two rows of the squared distance of the means plus that of the
        variances; 0 without such a class.
    """
    same = ops.cast(labels[:, None] == labels[None, :], real.dtype)
    counts = ops.sum(same, axis=1)
    averaging = same / counts[:, None]
    both = (real, generated)
    means = [ops.matmul(averaging, rows) for rows in both]
    variances = [ops.matmul(averaging, ops.square(rows - mean)) for rows, mean in zip(both, means, strict=True)]
    distances = sum(ops.sum(ops.square(x - y), axis=1) for x, y in (means, variances))
    weights = ops.where(counts >= 2, 1.0 / counts, 0.0)  # every class counts once
    return ops.sum(weights * distances) / ops.maximum(ops.sum(weights), 1.0)


def _norms(rows):
    return ops.sqrt(ops.maximum(ops.sum(ops.square(rows), axis=1), _TINY))
