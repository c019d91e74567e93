"""Self-training by stages of human or pseudo-labels: GIST and RIST, Teh et al., arXiv 2103.17105, for embeddings.

The paper has it for segmentation; for embeddings the choice of pseudo-labels and the stages are ours.
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
    """Trains on the images with labels, then in stages on these or on others that the network has labelled itself.

    Stage 0 trains on human labels. Before each further stage the newest network labels the images without a label
    (`guess_labels`, `accept_labels`). The stage starts from that network, with its loss weights, and trains

    - `"gist"`: once on human and once on pseudo-labels alone; the better one on the validation classes stays, human
      labels of equals. Two trainings a stage.
    - `"rist"`: on human labels with `human_probability`, else on pseudo-labels.
    - `"mixture"`: on both together; what the others are compared with.

    A stage on pseudo-labels that are too few for a batch cannot be: then human labels are taken, and that is said. The
    learner with the best value on the validation classes is kept. What has no label: the images of
    `unlabelled_class`, and with `labelled_share` below 1 the rest of each class, whose label is hidden. They are taken
    for images of known classes; new classes are not found this way. Each stage on pseudo-labels leaves
    `labels-<stage>.parquet` beside the logs: id, label, source (human, or pseudo and the stage whose network it was)
    and confidence.

    Args:
        schedule: see above.
        stages: most stages after stage 0, at least 1.
        stage_epochs: epochs of such a stage; 0 for as many as stage 0.
        stop_after: stages without a better value after which to stop; 0 never stops early.
        human_probability: in [0, 1].
        threshold: least confidence of a pseudo-label.
        cap: most pseudo-labels of a class; 0 for the median number of a class's human ones.
        least_similarity: least cosine with the class.
        temperature: of the confidence; positive.
        labelled_share: of the images of a class that keep their label, in (0, 1]; two at least do.
        unlabelled_class: name of the training class whose images have no label; "" if none is.
        seed: of what is hidden and drawn.

    Raises:
        ValueError: on a parameter out of range.
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
            """Train the last step of a path; None where there is too little to train on."""
            before, choice, stage = runs[path[:-1]], path[-1], len(path)
            store = human
            if choice != HUMAN:
                store = self._pseudo(task, human, pool, before.learner, stage, with_human=choice == BOTH)
            try:
                runs[path] = task.train(
                    f"stage-{stage}-{_WORDS[choice]}",
                    store=store,
                    prepare=continue_from(before.learner),
                    seed=task.settings.seed + stage,
                    epochs=self.stage_epochs or task.settings.training.epochs,
                    keep_start=False,
                )
            except UsageError as error:
                if choice != PSEUDO or error.code not in ("E_TOO_FEW_CLASSES", "E_TOO_FEW_RECORDS"):
                    raise
                print(f"stage {stage}: {len(store)} pseudo-labels are too few ({error}); human labels instead")
                return None
            value = runs[path].result.best_value
            return float(len(path)) if value is None else value  # unjudged, every stage counts as a gain

        random = np.random.default_rng((self.seed, 17))
        path = follow(
            score,
            self.stages,
            self.schedule,
            draw=lambda: HUMAN if random.random() < self.human_probability else PSEUDO,
            first=runs[""].result.best_value,
            stop_after=self.stop_after,
        )
        kept = [path[:length] for length in range(len(path) + 1)]
        results = [runs[each].result for each in kept]
        best = best_result(results)
        return runs[kept[best]]._replace(result=join_results(results, best))

    def _pseudo(self, task, human, pool, learner, stage, with_human) -> LabelledRows:
        """The images that the network labels with confidence; a table of all labels in use goes beside the logs."""
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
    """The path through the stages, a letter each: H for human labels, P for pseudo-labels, M for both.

    Args:
        score: trains the last step of a path and gives its value; None if it cannot be.
        stages: most stages.
        schedule: one of `SCHEDULES`.
        draw: the choice of the next stage, for `"rist"`.
        first: value before the first stage, if known.
        stop_after: stages without a better value after which to stop; 0 never stops early.

    Example:
        >>> values = {"H": 0.6, "P": 0.7, "PH": 0.8, "PP": 0.8}
        >>> follow(values.get, stages=2, schedule="gist")
        'PH'
    """
    path, best, without_gain = "", first, 0
    for _ in range(stages):
        options = [BOTH]
        if schedule != "mixture":
            options = [HUMAN, PSEUDO] if schedule == "gist" else [draw()]
        values = {choice: score(path + choice) for choice in options}
        if values == {PSEUDO: None}:
            values = {HUMAN: score(path + HUMAN)}
        possible = {choice: value for choice, value in values.items() if value is not None}
        path += max(possible, key=lambda choice: possible[choice])  # the first of equals: human labels
        value = possible[path[-1]]
        without_gain = 0 if best is None or value > best else without_gain + 1
        best = value if best is None else max(best, value)
        if 0 < stop_after <= without_gain:
            break
    return path
