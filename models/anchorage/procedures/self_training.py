"""Iterative self-training with human and pseudo-labels: GIST and RIST, Teh et al., arXiv 2103.17105.

The paper applies them to segmentation; the selection of pseudo-labels for embeddings and the stages are ours.
"""

from collections.abc import Callable

import numpy as np

from anchorage.checks import check_at_least_one, check_between, check_not_negative, check_positive
from anchorage.data.relabelled import LabelledRows, hide_labels
from anchorage.errors import UsageError
from anchorage.inference import embed_rows
from anchorage.procedures.procedure import Procedure, Task, best_result, continue_from, join_results
from anchorage.procedures.pseudo_labels import accept_labels, class_proxies, guess_labels

SCHEDULES = ("gist", "rist", "mixture")
HUMAN, PSEUDO, BOTH = "H", "P", "M"
_WORDS = {HUMAN: "human", PSEUDO: "pseudo", BOTH: "both"}


class SelfTraining(Procedure):
    """Trains on labelled images, then in stages on human labels or on pseudo-labels of unlabelled images.

    Stage 0 trains on human labels. Before each further stage, the current network predicts labels for the unlabelled
    images (`guess_labels`, `accept_labels`). The stage continues from that network and its loss weights, and trains

    - `"gist"`: on human labels and, separately, on pseudo-labels; the one with the better validation value is kept,
      human labels on ties. This takes two trainings per stage.
    - `"rist"`: on human labels with probability `human_probability`, else on pseudo-labels.
    - `"mixture"`: on both together, the baseline for the other two.

    If there are too few pseudo-labels for a batch, the stage uses human labels and prints a note. The learner with the
    best value on the validation classes is kept. Unlabelled images are those of `unlabelled_class` and, with
    `labelled_share` below 1, the rest of each class, whose labels are hidden. They are assumed to belong to known
    classes; new classes are not discovered. Each stage with pseudo-labels writes `labels-<stage>.parquet` to the log
    folder, with id, label, source (human, or pseudo and the stage of the network) and confidence.

    Args:
        schedule: `"gist"`, `"rist"` or `"mixture"`, see above.
        stages: maximum number of stages after stage 0, at least 1.
        stage_epochs: epochs per stage; 0 for those of stage 0.
        stop_after: number of stages without improvement after which to stop; 0 for no early stopping.
        human_probability: in [0, 1].
        threshold: minimum confidence of a pseudo-label, at least 0.
        cap: maximum number of pseudo-labels per class; 0 for the median number of human labels per class.
        least_similarity: minimum cosine with the class, in [-1, 1].
        temperature: temperature of the confidences, positive.
        labelled_share: fraction of the images of each class that keep their label, in (0, 1]; at least two images do.
        unlabelled_class: name of the training class of the unlabelled images; "" for none.
        seed: of the hidden labels and of `"rist"`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        schedule: str = "gist",
        stages: int = 4,
        stage_epochs: int = 0,
        stop_after: int = 2,
        human_probability: float = 0.5,
        threshold: float = 0.8,
        cap: int = 0,
        least_similarity: float = -1.0,
        temperature: float = 1 / 9,
        labelled_share: float = 1.0,
        unlabelled_class: str = "",
        seed: int = 0,
    ):
        if schedule not in SCHEDULES:
            raise ValueError(f"`schedule` must be one of {list(SCHEDULES)}. Received: schedule={schedule!r}")
        check_at_least_one(stages=stages)
        check_not_negative(stage_epochs=stage_epochs, stop_after=stop_after, cap=cap, threshold=threshold)
        check_between(0, 1, human_probability=human_probability)
        check_between(-1, 1, least_similarity=least_similarity)
        check_positive(temperature=temperature, labelled_share=labelled_share)
        self.schedule, self.stages, self.stop_after = schedule, stages, stop_after
        self.stage_epochs, self.human_probability = stage_epochs, human_probability
        self.threshold, self.cap, self.least_similarity = threshold, cap, least_similarity
        self.temperature = temperature
        self.labelled_share, self.unlabelled_class, self.seed = labelled_share, unlabelled_class, seed

    def run(self, task: Task):
        if self.schedule == "gist" and task.validation_store is None:
            raise UsageError(
                "E_NO_VALIDATION", "The schedule 'gist' needs validation classes. Train with a `validation_store`."
            )
        human, pool = hide_labels(task.store, self.labelled_share, self.unlabelled_class, self.seed)
        if not len(pool):
            raise UsageError(
                "E_NOTHING_UNLABELLED",
                "Self-training needs images without a label. Set `labelled_share` below 1 or name `unlabelled_class`.",
            )
        runs = {"": task.train("stage-0-human", store=human)}

        def score(path: str) -> float | None:
            """Train the last stage of a path and return its validation value; None with too few pseudo-labels."""
            previous, choice, stage = runs[path[:-1]], path[-1], len(path)
            store = human
            if choice != HUMAN:
                store = self._pseudo_labelled(task, human, pool, previous.learner, stage, with_human=choice == BOTH)
            try:
                runs[path] = task.train(
                    f"stage-{stage}-{_WORDS[choice]}",
                    store=store,
                    prepare=continue_from(previous.learner),
                    seed=task.settings.seed + stage,
                    epochs=self.stage_epochs or task.settings.training.epochs,
                    keep_start=False,
                )
            except UsageError as error:
                if choice != PSEUDO or error.code not in ("E_TOO_FEW_CLASSES", "E_TOO_FEW_RECORDS"):
                    raise
                print(f"stage {stage}: too few pseudo-labels ({len(store)}): {error}; using human labels")
                return None
            value = runs[path].result.best_value
            return float(len(path)) if value is None else value  # without validation, every stage is an improvement

        random = np.random.default_rng((self.seed, 17))
        path = follow(
            score,
            self.stages,
            self.schedule,
            draw=lambda: HUMAN if random.random() < self.human_probability else PSEUDO,
            first=runs[""].result.best_value,
            stop_after=self.stop_after,
        )
        prefixes = [path[:length] for length in range(len(path) + 1)]
        results = [runs[prefix].result for prefix in prefixes]
        best = best_result(results)
        return runs[prefixes[best]]._replace(result=join_results(results, best))

    def _pseudo_labelled(self, task, human, pool, learner, stage, with_human) -> LabelledRows:
        """The images with accepted pseudo-labels; writes a table of all labels to the log folder."""
        guesses = guess_labels(
            embed_rows(learner.encoder, task.store, pool), class_proxies(learner, human), self.temperature
        )
        cap = self.cap or int(np.median(np.bincount(human.labels)))
        accepted = accept_labels(guesses, self.threshold, cap, self.least_similarity)
        rows = np.concatenate([human.rows, pool[accepted]])
        labels = np.concatenate([human.labels, guesses.labels[accepted]])
        sources = ["human"] * len(human) + [f"pseudo:stage-{stage - 1}"] * int(accepted.sum())
        task.write_table(
            f"labels-{stage}",
            {
                "id": task.store.ids[rows].astype(str),
                "label": np.array(human.class_names, str)[labels],
                "source": sources,
                "confidence": np.concatenate([np.ones(len(human)), guesses.confidences[accepted]]),
            },
        )
        start = 0 if with_human else len(human)
        return LabelledRows(task.store, rows[start:], labels[start:], human.class_names)


def follow(
    score: Callable[[str], float | None],
    stages: int,
    schedule: str,
    draw: Callable[[], str] = lambda: HUMAN,
    first: float | None = None,
    stop_after: int = 0,
) -> str:
    """Select the labels of each stage: a string of H for human labels, P for pseudo-labels, M for both.

    Args:
        score: trains the last stage of a path and returns its value, or None if that is impossible.
        stages: maximum number of stages.
        schedule: one of `SCHEDULES`.
        draw: returns the choice of the next stage, for `"rist"`.
        first: value before the first stage, if known.
        stop_after: number of stages without improvement after which to stop; 0 for no early stopping.

    Example:
        >>> values = {"H": 0.6, "P": 0.7, "PH": 0.8, "PP": 0.8}
        >>> follow(values.get, stages=2, schedule="gist")
        'PH'
    """
    path, best, stagnant = "", first, 0
    for _ in range(stages):
        options = [BOTH]
        if schedule != "mixture":
            options = [HUMAN, PSEUDO] if schedule == "gist" else [draw()]
        values = {choice: score(path + choice) for choice in options}
        if values == {PSEUDO: None}:
            values = {HUMAN: score(path + HUMAN)}
        possible = {choice: value for choice, value in values.items() if value is not None}
        path += max(possible, key=lambda choice: possible[choice])  # the first on ties: human labels
        value = possible[path[-1]]
        stagnant = 0 if best is None or value > best else stagnant + 1
        best = value if best is None else max(best, value)
        if 0 < stop_after <= stagnant:
            break
    return path
