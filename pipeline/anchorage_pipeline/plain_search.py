"""`anchorage tune`: the hyperparameter search of an experiment without the rest of the pipeline."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anchorage.errors import UsageError
from anchorage.files import replace_file
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.fingerprint import code_version, digest, training_modules
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.lock import hold_folder
from anchorage_pipeline.plain import open_splits
from anchorage_pipeline.values import search_space

PAGE = "search.html"

_CORE = ("anchorage.procedures", "anchorage.tuning.training")


def search_plainly(experiment: Experiment, output: Path) -> dict[str, Any] | None:
    """Pack the images, search, and train the best values again with new seeds.

    An interrupted search resumes: no trial is repeated whose settings, oracle, data and code are the same. Packed
    images are kept for the next call. With the variables of Keras Tuner's chief and workers, each of these processes
    has its own packed images, and all write their trials below `output`.

    Args:
        experiment: an experiment with ranges.
        output: folder for `search.json`, the page `search.html` and the records of the trials.

    Returns:
        The record of the search and what is derived from it, see `anchorage.judging.searched.describe_search`; None in
        a process that ran trials for a chief.

    Raises:
        UsageError: E_TUNER_SPACE without ranges; E_TUNER_FAILED if no trial succeeded.
        DataError: E_TOO_MANY_REJECTS, E_SPLIT_EMPTY.
        ResourceError: E_RUN_LOCKED, if another command uses `output`.
    """
    from anchorage.judging.searched import describe_search
    from anchorage.reporting.report import write_search_page
    from anchorage.tuning.record import SEARCH
    from anchorage.tuning.search import run_search
    from anchorage.tuning.training import trial_training
    from anchorage.tuning.trial_settings import changed_steps

    space, tuning = search_space(experiment), experiment.tuning.settings
    if not space:
        raise UsageError(
            "E_TUNER_SPACE",
            f"`anchorage tune` searches ranges. Received: none in {experiment.name}. Write a range where the value "
            "stands, such as `margin = { low = 0.05, high = 0.5 }` or `{ choices = [0.1, 0.2] }` below [loss.params]",
        )
    worker = os.environ.get("KERASTUNER_TUNER_ID", "chief")
    own = output if worker == "chief" else output / worker
    with hold_folder(own, experiment.name):
        data, [train, validation, _] = open_splits(experiment, own / "stores")
        settings = training_settings(experiment)
        modules, tables = training_modules(settings, *_CORE)
        parts = [settings, tuning.identity, data, code_version(*modules, tables=tables)]
        found = run_search(
            trial_training(train, validation, settings, tuning, cache_folder=own / "features"),
            space,
            tuning,
            seed=experiment.seed,
            folder=output / "searches" / digest(parts),
            log_folder=output / "logs",
            steps=lambda values: changed_steps(settings, values, train),
        )
        if found is None:
            return None
        described = describe_search(asdict(found))
        replace_file(output / SEARCH, json.dumps(asdict(found), indent=1, ensure_ascii=False).encode())
        write_search_page(described, experiment.name, output / PAGE)
    return described


def format_trials(search: Mapping[str, Any]) -> str:
    """The table of all trials: number, score in percent, values, and what became of it."""
    from anchorage.judging.gate import metric_name

    names = [setting["name"] for setting in search["settings"]]
    rows = [["trial", f"{metric_name(search['objective'])}, %", *names, "state"]]
    for trial in search["trials"]:
        score = "-" if trial["score"] is None else f"{100 * trial['score']:.1f}"
        values = [_brief(trial["values"].get(setting["path"])) for setting in search["settings"]]
        state = ", best" if trial["number"] == search["best"] else ""
        reason = f": {trial['reason']}" if trial["reason"] else ""
        rows.append([str(trial["number"]), score, *values, f"{trial['state']}{state}{reason}"])
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return "\n".join(
        "  ".join([*(text.rjust(width) for text, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    )


def format_winner(search: Mapping[str, Any]) -> str:
    """The best trial, its repeats with their interval, and the lines for the experiment file."""
    from anchorage.judging.gate import metric_name

    best = next(trial for trial in search["trials"] if trial["number"] == search["best"])
    name, count = metric_name(search["objective"]), len(search["trials"])
    folds = search["folds"]
    target = f"over {folds} folds of the training classes" if folds else "on the validation classes"
    lines = [f"best     trial {best['number']}, {name} {100 * best['score']:.1f} {target}, of {count}"]
    interval = search["interval"]
    if interval and interval["low"] is not None:
        low, high, confidence = (100 * interval[key] for key in ("low", "high", "confidence"))
        spread = f", {confidence:.0f} % interval {low:.1f} to {high:.1f}"
    else:
        spread = ""
    if interval:
        seeds = ", ".join(str(repeat["seed"]) for repeat in search["repeats"])
        lines.append(f"repeated {name} {100 * interval['mean']:.1f}{spread}, new seeds {seeds}")
    return "\n".join([*lines, "write    in place of the ranges:", *(f"  {line}" for line in search["lines"])])


def _brief(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
