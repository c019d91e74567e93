"""An ensemble of networks trained on folds of the classes, as in Gürbüz, Can & Alatan, arXiv 2209.09060."""

import dataclasses
import json
import math
from itertools import chain

import keras

from anchorage.checks import check_at_least_one
from anchorage.data.subset import ClassSubset, assign_folds
from anchorage.inference import named_outputs
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.procedures.procedure import Procedure, Task, join_results
from anchorage.training.run import TrainRun
from anchorage.training.validation import MONITOR, validate

COMBINATIONS = ("concatenate", "mean")


class ClassFolds(Procedure):
    """Cross-validation over classes: trains a network for each held-out fold and combines them into one encoder.

    Each network selects its best epoch on its held-out fold; the validation classes of the experiment evaluate the
    networks and the combined encoder after training. The combined embedding of unit embeddings `z_1 .. z_F` is

    - `"concatenate"`: `[z_1, ..., z_F] / sqrt(F)`, of F times the size; its cosines are the means of the cosines of
      the networks.
    - `"mean"`: their normalized sum. This requires networks initialized from the same pretrained weights, as the
      embedding spaces of independently trained networks are unrelated.

    Training and inference take F times as long. `folds.json` in the log folder has the metrics of each network on its
    fold and on the validation classes, their mean, and the metrics of the combined encoder.

    Args:
        folds: number of folds F, at least 2; each fold has at least two classes.
        combine: `"concatenate"` or `"mean"`, see above.
        seed: of the assignment of classes to folds.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, folds: int = 4, combine: str = "concatenate", seed: int = 0):
        check_at_least_one(folds=folds - 1)
        if combine not in COMBINATIONS:
            raise ValueError(f"`combine` must be one of {list(COMBINATIONS)}. Received: combine={combine!r}")
        self.folds, self.combine, self.seed = folds, combine, seed

    def run(self, task: Task) -> TrainRun:
        names = task.store.class_names
        runs = [
            task.train(
                f"fold-{number}",
                store=ClassSubset(task.store, set(names) - set(fold)),
                validation_store=ClassSubset(task.store, fold),
                seed=task.settings.seed + number,
            )
            for number, fold in enumerate(assign_folds(names, self.folds, self.seed))
        ]
        combined = self._combined_learner(task, combine_encoders([run.learner.encoder for run in runs], self.combine))
        result = join_results([run.result for run in runs], len(runs) - 1)
        value = None
        if task.validation_store is not None:
            values = self._validate(task, runs, combined)
            value = values["whole"][MONITOR]
        result = dataclasses.replace(
            result,
            best_epoch=len(result.history) - 1,
            best_value=value,
            start_weights=list(chain.from_iterable(run.result.start_weights for run in runs)),
        )
        return TrainRun(combined, result)

    def _combined_learner(self, task: Task, encoder: keras.Model) -> MetricLearner:
        """A learner with the combined encoder and an untrained loss."""
        loss = task.settings.loss
        facts = {"num_classes": len(task.store.class_names), "embedding_size": encoder.output_shape[-1]}
        learner = MetricLearner(encoder, create_loss(loss.name, dict(loss.params), **facts))
        learner.compile("adam")
        learner.build((None, *task.store.spec.shape))
        return learner

    def _validate(self, task: Task, runs: list[TrainRun], combined: MetricLearner) -> dict:
        single = [validate(run.learner, task.validation_store) for run in runs]
        values = {
            "own_fold": [run.result.best_value for run in runs],
            "validation": single,
            "mean": {name: sum(metrics[name] for metrics in single) / len(single) for name in single[0]},
            "whole": validate(combined, task.validation_store),
        }
        if task.log_folder is not None:
            task.log_folder.mkdir(parents=True, exist_ok=True)
            (task.log_folder / "folds.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
        return values


def combine_encoders(encoders: list[keras.Model], combine: str) -> keras.Model:
    """Combine encoders with the same input into one; their embeddings are L2-normalized first, see `ClassFolds`."""
    images = keras.Input(encoders[0].input_shape[1:], name="images")
    parts = []
    for number, encoder in enumerate(encoders):
        encoder.name = f"fold_{number}"
        outputs = encoder(images)
        rows = named_outputs(outputs)["embeddings"]
        parts.append(_unit_rows(f"unit_length_{number}")(rows))
    if combine == "concatenate":
        joined = keras.layers.Concatenate(dtype="float32", name="joined")(parts)
        embeddings = keras.layers.Rescaling(1 / math.sqrt(len(parts)), dtype="float32", name="unit_length")(joined)
    else:
        joined = keras.layers.Average(dtype="float32", name="joined")(parts)
        embeddings = _unit_rows("unit_length")(joined)
    return keras.Model(images, embeddings, name="encoder")


def _unit_rows(name: str) -> keras.layers.Layer:
    return keras.layers.UnitNormalization(axis=-1, dtype="float32", name=name)
