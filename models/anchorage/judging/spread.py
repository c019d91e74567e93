"""Tells how far the metrics of a candidate's settings scatter from seed to seed."""

from collections.abc import Mapping
from typing import Any

from anchorage.judging.gate import metric_name

_BESIDE = "recall@1"  # told beside the primary metric


def format_spread(spread: Mapping[str, Any] | None, primary: str, seed: int | None = None) -> str:
    """One line on the spread, in percent: mean ± standard deviation (lowest to highest).

    Args:
        spread: `metrics` (name -> `mean`, `deviation`, `lowest`, `highest` in [0, 1]), `seeds`, `machines` and
            `trainings` (how many), `same_code` (whether measured with the code of today); empty or None if unknown.
        primary: the metric that decides, told first.
        seed: of the candidate's own training.
    """
    if not spread:
        own = "One training" if seed is None else f"One training, seed {seed}"
        return f"{own}. The spread over seeds is not measured: `anchorage spread FILE`"
    metrics = spread["metrics"]
    told = [
        f"{metric_name(name)} {100 * found['mean']:.1f} ± {100 * found['deviation']:.1f} "
        f"({100 * found['lowest']:.1f} to {100 * found['highest']:.1f})"
        for name, found in ((name, metrics[name]) for name in dict.fromkeys([primary, _BESIDE]) if name in metrics)
    ]
    machines = spread["machines"]
    over = f"over {len(spread['seeds'])} seeds on {machines} machine{'s' if machines > 1 else ''}"
    if machines > 1:
        over += f", {spread['trainings']} trainings"
    return f"{', '.join(told)} {over}{'' if spread['same_code'] else ', measured with earlier code'}"
