"""Warm start from labels that cost nothing: Teh & Taylor, ISBI 2020, arXiv 1911.12425, in our terms for embeddings."""

import dataclasses

from anchorage.checks import check_not_negative, check_positive
from anchorage.data.relabelled import hide_labels, labels_in_names
from anchorage.procedures.procedure import Procedure, Task, continue_from, join_results


class WeakLabels(Procedure):
    """Trains on labels found in the images' names, then goes on with the real ones at a lower rate.

    Folder, seller or series often stand in a file's name. The first training takes them for classes; the second
    starts from its encoder with a fresh loss (proxies of other classes are of no use) and `rate_factor` times the
    learning rate, on the human labels. To see what little expert work is worth, `labelled_share` leaves only a part of
    the human labels; the first training uses all images.

    Args:
        pattern: regular expression with one group, searched in the image's id, its path in the data: the group is
            the weak label. Images that it does not fit stay out of the first training.
        weak_epochs: of the first training; 0 for as many as the second.
        rate_factor: on the learning rate of the second training, positive.
        labelled_share: of the images of a class that keep their label, in (0, 1]; two at least do.
        seed: of what is hidden.

    Raises:
        ValueError: on a parameter out of range.
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
            print(f"{len(weak)} images of {len(weak.class_names)} weak classes, then {len(human)} with human labels")
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
