"""Initialization of proxies at the class means, as in Kirchhof, Roth, Akata & Kasneci, ECCV 2022."""

import keras
import numpy as np

from anchorage.checks import check_at_least_one
from anchorage.errors import UsageError
from anchorage.inference import embed_rows
from anchorage.methods.chance_constrained_proxies import draw_rows
from anchorage.methods.method import Method
from anchorage.proxies.bank import start_at_class_means

_STREAM = 0xC3  # separates these random numbers from those of the batches


@keras.saving.register_keras_serializable(package="anchorage")
class ClassMeanStart(Method):
    """Initializes the proxies of the loss to the mean embeddings of their classes.

    Random proxies take epochs to move to their classes, or a learning rate a thousand times that of the network. This
    takes one forward pass over `per_class` images of each class before training. See
    `anchorage.proxies.bank.start_at_class_means` for several proxies per class.

    Args:
        per_class: maximum number of images per class, at least 1.
        seed: of the random images.

    Raises:
        ValueError: if an argument is out of range.
        UsageError: E_NO_PROXIES if the loss has no proxies of the training classes.
    """

    def __init__(self, per_class: int = 100, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_at_least_one(per_class=per_class)
        self.per_class = per_class
        self.seed = seed

    def start(self, context):
        learner, labels = context.learner, context.store.labels
        count = min(self.per_class, int(np.bincount(labels).max()))
        random = np.random.default_rng((_STREAM, self.seed))
        _, rows = draw_rows(labels, count, random)
        rows = np.unique(rows)  # rows of small classes are drawn repeatedly
        embeddings = embed_rows(learner.encoder, context.store, rows)
        try:
            start_at_class_means(learner.loss_layer, embeddings, labels[rows], self.seed)
        except ValueError as error:
            raise UsageError("E_NO_PROXIES", f"'class_mean_start' needs a loss with proxies. {error}") from error

    def get_config(self):
        return {**super().get_config(), "per_class": self.per_class, "seed": self.seed}
