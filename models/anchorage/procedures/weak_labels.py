"""Pretraining on weak labels: Teh & Taylor, ISBI 2020, arXiv 1911.12425, adapted to embeddings."""

import dataclasses

from anchorage.checks import check_not_negative, check_positive
from anchorage.data.relabelled import hide_labels, labels_in_names
from anchorage.procedures.procedure import Procedure, Task, continue_from, join_results


class WeakLabels(Procedure):
    """Trains on weak labels taken from the image paths, then fine-tunes on human labels at a lower learning rate.

    Paths often contain a folder, seller or series. The first training uses these as classes. The second continues from
    its encoder, with a new loss for the new classes and `rate_factor` times the learning rate, on the human labels.
    With `labelled_share` below 1 it uses only some of the human labels, while the first training uses all images.

    Args:
        pattern: regular expression with one group, the weak label, searched in the image id (its path in the data).
            The first training skips images without a match.
        weak_epochs: epochs of the first training; 0 for those of the second.
        rate_factor: factor on the learning rate of the second training, positive.
        labelled_share: fraction of the images of each class that keep their label, in (0, 1]; at least two images do.
        seed: of the hidden labels.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, pattern: str, weak_epochs: int = 0, rate_factor: float = 0.1, labelled_share: float = 1.0, seed: int = 0
    ):
        check_not_negative(weak_epochs=weak_epochs)
        check_positive(rate_factor=rate_factor, labelled_share=labelled_share)
        self.pattern, self.weak_epochs = pattern, weak_epochs
        self.rate_factor, self.labelled_share, self.seed = rate_factor, labelled_share, seed

    def run(self, task: Task):
        weak = labels_in_names(task.store, self.pattern)
        human, _ = hide_labels(task.store, self.labelled_share, seed=self.seed)
        if task.verbose:
            print(f"{len(weak)} images in {len(weak.class_names)} weak classes, then {len(human)} with human labels")
        training = task.settings.training
        first = task.train("weak-labels", store=weak, epochs=self.weak_epochs or training.epochs)
        rate = training.optimizer.learning_rate * self.rate_factor
        second = task.train(
            "human-labels",
            store=human,
            prepare=continue_from(first.learner, with_loss=False),
            optimizer=dataclasses.replace(training.optimizer, learning_rate=rate),
        )
        return second._replace(result=join_results([first.result, second.result], 1))
