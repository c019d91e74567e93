"""Formatting of the spread of metrics over training seeds."""

from collections.abc import Mapping
from typing import Any

from anchorage.judging.gate import metric_name

_SECOND = "recall@1"  # shown after the primary metric


def format_spread(spread: Mapping[str, Any] | None, primary: str, seed: int | None = None) -> str:
    """Format the spread as one line, in percent: mean ± standard deviation (lowest to highest).

    Args:
        spread: `metrics` (name -> `mean`, `deviation`, `lowest`, `highest` in [0, 1]), `seeds`, number of `machines`
            and `trainings`, `same_code` (whether measured with the current code); empty or None if not measured.
        primary: name of the primary metric, which comes first.
        seed: seed of the candidate's training.
    """
    if not spread:
        training = "One training" if seed is None else f"One training, seed {seed}"
        return f"{training}. The spread over seeds is not measured: `anchorage spread FILE`"
    metrics = spread["metrics"]
    described = [
        f"{metric_name(name)} {100 * metrics[name]['mean']:.1f} ± {100 * metrics[name]['deviation']:.1f} "
        f"({100 * metrics[name]['lowest']:.1f} to {100 * metrics[name]['highest']:.1f})"
        for name in dict.fromkeys([primary, _SECOND])
        if name in metrics
    ]
    machines = spread["machines"]
    over = f"over {len(spread['seeds'])} seeds on {machines} machine{'s' if machines > 1 else ''}"
    if machines > 1:
        over += f", {spread['trainings']} trainings"
    return f"{', '.join(described)} {over}{'' if spread['same_code'] else ', measured with earlier code'}"
