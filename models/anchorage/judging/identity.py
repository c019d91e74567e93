"""The model card of a candidate: the model, its data, and the limits of its evaluation."""

from collections.abc import Mapping
from typing import Any

from anchorage.judging.spread import format_spread


def describe_identity(report: Mapping[str, Any], context: Mapping[str, Any], dimension: int) -> dict[str, Any]:
    """Build the model card from the experiment file and the report.

    Args:
        report: the other sections of the report.
        context: as for `judge_candidate`: `facts` with `experiment`, `model`,
            `training` with the `settings` after tuning, `spread` as for
            `format_spread`.
        dimension: dimension of the embeddings.

    Returns:
        `model` and `data`, name -> value without unknown values, and
        `limits`, a list of sentences.
    """
    facts = context.get("facts", {})
    experiment = {**facts.get("experiment", {}), **context.get("training", {}).get("settings", {})}
    data, encoder, training = (experiment.get(key, {}) for key in ("data", "encoder", "training"))
    trained, vectors = training.get("epochs") != 0, data.get("input") == "vectors"
    kind = "vectors" if vectors else "images"
    pooling = f", {encoder.get('pooling', 'unknown')} pooling" if encoder and not vectors else ""
    model = {
        "Use": facts.get("intended_use", f"finding {kind} of the same class by similarity, among {kind} like these"),
        "Encoder": _named(encoder),
        "Start weights": encoder.get("weights") or ("random" if encoder and not vectors else None),
        "Preset": facts.get("preset")
        and "{name}, license of its weights: {license}; files {digest}".format_map(facts["preset"]),
        "Input": _input(data),
        "Embedding": f"{dimension:,} numbers, unit length{pooling}",
        "Loss": _named(experiment.get("loss", {})) if trained else None,
        "Training": ({key: training.get(key) for key in ("epochs", "precision")} if training else None)
        if trained
        else "none: the encoder is used as it is",
        "Batches": _named(training.get("sampler", {})) if trained else None,
        "Optimizer": _optimizer(training.get("optimizer", {})) if trained else None,
        "Seed": experiment.get("seed"),
        "Spread over seeds": format_spread(context.get("spread"), report["primary"], experiment.get("seed")),
        **context.get("model", {}),
    }
    dataset = {
        "Source": data.get("path"),
        "Split rule": _split_rule(context.get("audit", {})),
        "Data version": facts.get("data_version"),
        "Evaluation set": report["evaluation_set"],
    }
    return {
        "model": {name: value for name, value in model.items() if value not in (None, "", {})},
        "data": {name: value for name, value in dataset.items() if value not in (None, "")},
        "limits": [*_limits(report, context.get("spread"), vectors=vectors), *facts.get("limits", [])],
    }


def _format_seeds(spread: Mapping[str, Any] | None) -> str:
    if not spread:
        return "One training with one seed: the variation between seeds is not measured."
    return (
        "All results are from one training; the spread over seeds shows how much they vary: mean ± standard deviation "
        "(lowest to highest), in percent, with the same split of the data."
    )


def _input(data: Mapping[str, Any]) -> str | None:
    if data.get("input") == "vectors":
        return "the given vectors"
    size = data.get("image_size")
    return f"{size} × {size} pixels, {data.get('fit', 'crop')}" if size else None  # noqa: RUF001


def _limits(report: Mapping[str, Any], spread: Mapping[str, Any] | None, *, vectors: bool) -> list[str]:
    counts, thresholds = report["counts"], report["thresholds"]
    kind = "vectors" if vectors else "images"
    others = "vectors, of other models or items," if vectors else "kinds of images, cameras or drawing styles"
    limits = [
        f"Evaluated on {counts['classes']:,} classes of split {report['split']} and a gallery of "
        f"{counts['gallery']:,} {kind}; all metrics decrease in a larger gallery"
        + (f", and the released index has {report['index']['rows']:,}." if "index" in report else "."),
        f"Not evaluated on other {others} than those of the data set.",
        "The 95 % confidence intervals cover the choice of test classes, not the seed of the training.",
        _format_seeds(spread),
    ]
    if counts["skipped"]:
        limits.append(f"{counts['skipped']:,} queries have no other image of their class and were not evaluated.")
    if "likely_match" in thresholds:
        limits.append(
            f"The threshold for a likely match comes from the classes of split {thresholds['split']}; "
            "its error rates differ on other classes."
        )
    return limits


def _split_rule(audit: Mapping[str, Any]) -> str | None:
    """Describe whether splits share classes, according to the audit."""
    if "leaks" not in audit:
        return None
    leaks = audit["leaks"]["count"]
    return f"{leaks:,} classes are in several splits" if leaks else "by class: splits share no class"


def _named(section: Mapping[str, Any]) -> dict[str, Any] | str | None:
    """Format a name with its parameters: `contrastive` or `contrastive (margin = 0.5)`."""
    if not section:
        return None
    params = ", ".join(f"{name} = {_short(value)}" for name, value in (section.get("params") or {}).items())
    return f"{section['name']} ({params})" if params else section["name"]


def _optimizer(section: Mapping[str, Any]) -> str | None:
    if not section or section.get("name") is None:
        return None
    rate = f"learning rate {_short(section['learning_rate'])}" if "learning_rate" in section else ""
    schedule = f"{section['schedule']} schedule" if section.get("schedule") else ""
    return ", ".join(part for part in (str(_named(section)), rate, schedule) if part)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):  # a range or choices of the tuner that was not run
        return f"{value['low']:g} to {value['high']:g}" if "low" in value else str(value.get("choices", value))
    return f"{value:g}" if isinstance(value, float) else str(value)
