"""Settings of a trial: ranges replaced by values, with the same number of samples for every batch size."""

from collections.abc import Mapping
from typing import Any

from anchorage.training.building import create_sampler
from anchorage.training.run import choose_recipe
from anchorage.tuning.ranges import apply_values, read_space, start_values

_SAMPLER = "training.sampler"


def trial_settings(settings: Mapping[str, Any], values: Mapping[str, Any], store: Any) -> dict[str, Any]:
    """Replace the ranges of the settings by values, and keep the number of samples when the batches change.

    If the sampler has ranges, an epoch has as many samples as with the start values of all ranges, and the steps of the
    warm-up and those before a group of weights is trained cover as many as they do there. The learning rate stays as it
    is written: give it a range of its own if it should follow the size of the batch.

    Args:
        settings: `encoder`, `loss`, `training` and `seed`, with ranges.
        values: value by the path of its range, and of other settings.
        store: training images.
    """
    trial = apply_values(settings, values)
    space = read_space(settings)
    if not any(f"{item.path}.".startswith(f"{_SAMPLER}.") for item in space):
        return trial
    start = apply_values(settings, {**start_values(space), "training.epochs": 1})
    (batch, _), (reference, steps) = batches(trial, store), batches(start, store)
    training = trial["training"]
    training["steps_per_epoch"] = max(1, round(reference * steps / batch))
    optimizer = training["optimizer"]

    def same_samples(steps: Any) -> Any:
        return round(steps * reference / batch) if isinstance(steps, int) else steps

    optimizer["frozen_steps"] = {
        group: same_samples(steps) for group, steps in (optimizer.get("frozen_steps") or {}).items()
    }
    if "warmup_steps" in optimizer:
        optimizer["warmup_steps"] = same_samples(optimizer["warmup_steps"])
    return trial


def changed_steps(settings: Mapping[str, Any], values: Mapping[str, Any], store: Any) -> dict[str, int]:
    """Steps that `trial_settings` changes, by their path; the values alone do not reproduce the training."""
    written, changed = apply_values(settings, values), trial_settings(settings, values, store)
    if changed == written:
        return {}
    before, after = written["training"]["optimizer"], changed["training"]["optimizer"]
    frozen = (before.get("frozen_steps") or {}).items()
    steps = {
        "training.steps_per_epoch": (batches(written, store)[1], changed["training"]["steps_per_epoch"]),
        "training.optimizer.warmup_steps": (before.get("warmup_steps"), after.get("warmup_steps")),
        **{f"training.optimizer.frozen_steps.{name}": (old, after["frozen_steps"][name]) for name, old in frozen},
    }
    return {path: new for path, (old, new) in steps.items() if new != old}


def batches(settings: Mapping[str, Any], store: Any) -> tuple[int, int]:
    """Rows of a batch, and batches of an epoch."""
    training = choose_recipe(store, settings, verbose=0)[0].training
    sampler = create_sampler(training.sampler, store.labels, settings["seed"])
    return sampler.batch_size, training.steps_per_epoch or sampler.steps_per_round
