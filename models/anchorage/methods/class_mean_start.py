"""Proxies that start where their classes are, as in Kirchhof, Roth, Akata & Kasneci, ECCV 2022."""

import keras
import numpy as np

from anchorage.checks import check_at_least_one
from anchorage.errors import UsageError
from anchorage.inference import embed_rows
from anchorage.methods.chance_constrained_proxies import draw_rows
from anchorage.methods.method import Method
from anchorage.proxies.bank import start_at_class_means

_STREAM = 0xC3  # tells these draws from those of the batches


@keras.saving.register_keras_serializable(package="anchorage")
class ClassMeanStart(Method):
    """Puts the proxies of the loss on the means of their classes before the first step.

    Proxies that start at random first have to find their classes, which takes epochs, or a rate of learning a
    thousand times that of the network. It costs one forward pass over `per_class` images of each class, and nothing
    afterwards. See `anchorage.proxies.start_at_class_means` for several proxies a class.

    Args:
        per_class: most images of a class that are embedded, at least 1.
        seed: of what is drawn.

    Raises:
        ValueError: on a parameter out of range.
        UsageError: E_NO_PROXIES with a loss that has no proxies of the training classes.
    """

    def __init__(self, per_class: int = 100, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_at_least_one(per_class=per_class)
        self.per_class = per_class
        self.seed = seed

    def start(self, context):
        learner, labels = context.learner, context.store.labels
        drawn = min(self.per_class, int(np.bincount(labels).max()))
        random = np.random.default_rng((_STREAM, self.seed))
        _, rows = draw_rows(labels, drawn, random)
        rows = np.unique(rows)  # a small class fills its places by repeating
        embeddings = embed_rows(learner.encoder, context.store, rows)
        try:
            start_at_class_means(learner.loss_layer, embeddings, labels[rows], self.seed)
        except ValueError as error:
            raise UsageError("E_NO_PROXIES", f"'class_mean_start' moves the proxies of a loss. {error}") from error

    def get_config(self):
        return {**super().get_config(), "per_class": self.per_class, "seed": self.seed}
