"""The table of a comparison in Markdown."""

import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anchorage.files import replace_file
from anchorage_pipeline.comparison.data import Images
from anchorage_pipeline.comparison.jobs import format_values
from anchorage_pipeline.comparison.plan import CHOICE
from anchorage_pipeline.comparison.ranking import Difference, Estimate
from anchorage_pipeline.comparison.results import Outcome, Row, units_of

_METRIC_NAMES = {"map@r": "MAP@R", "r_precision": "R-precision"}


def write_table(outcome: Outcome, images: Images, path: Path) -> None:
    """Write the table with its notes and conditions atomically."""
    lines = [f"# {outcome.comparison.name}", "", *_head(outcome), *map(_line(outcome), outcome.rows), ""]
    lines += [*_legend(outcome), "", *_ranks(outcome), *_notes(outcome), *_conditions(outcome, images)]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, ("\n".join(lines) + "\n").encode())


def format_estimate(value: Estimate | None) -> str:
    """A mean in percent with its standard error.

    Example:
        >>> format_estimate(Estimate(mean=0.4512, error=0.0049, units=3))
        '45.1 ± 0.5'
    """
    if value is None:
        return ""
    return f"{100 * value.mean:.1f}" + ("" if math.isnan(value.error) else f" ± {100 * value.error:.1f}")


def format_difference(difference: Difference | None, holds: bool = False) -> str:
    """A difference in points with its standard error, and whether it is significant.

    Example:
        >>> format_difference(Difference(mean=0.003, error=0.006, units=3, low=-0.02, high=0.03, p=0.7))
        'no difference measured: +0.3 ± 0.6'
    """
    if difference is None:
        return ""
    if difference.units < 2:
        return f"one run, no standard error: {100 * difference.mean:+.1f}"
    text = f"{100 * difference.mean:+.1f} ± {100 * difference.error:.1f}"
    if not difference.measured:
        return f"no difference measured: {text}"
    return f"{'better' if difference.mean > 0 else 'worse'}: {text}{' *' if holds else ''}"


def _head(outcome: Outcome) -> list[str]:
    metrics = outcome.comparison.metrics
    names = [_METRIC_NAMES.get(metric, metric) for metric in metrics]
    primary = _METRIC_NAMES.get(outcome.comparison.primary, outcome.comparison.primary)
    cells = ["entry", *(f"{name}, %" for name in names), "against", *(f"{name}, points" for name in names)]
    cells += ["CPU s per run", "time", "memory", f"s per point of {primary}"]
    return [_cells(cells), _cells(["---"] * len(cells))]


def _line(outcome: Outcome):
    metrics, primary = outcome.comparison.metrics, outcome.comparison.primary

    def line(row: Row) -> str:
        base = outcome.row(row.entry.against) if row.entry.against else None
        cells = [row.label + (" †" if row.entry.unlike else "")]
        cells += [format_estimate(row.values.get(metric)) if row.good else _absent(row) for metric in metrics]
        cells += [base.label if base else ""]
        cells += [format_difference(row.differences.get(metric), metric in row.holds) for metric in metrics]
        cells += [_number(row.seconds, "{:.0f}")]
        cells += [_number(ratio, "{:.2f} x") for ratio in (row.time_ratio, row.memory_ratio)]
        cells += [_price(row, base, primary) if base else ""]
        return _cells(cells)

    return line


def _absent(row: Row) -> str:
    tried = row.records or (row.chosen.values and row.chosen.candidate is None and not row.chosen.missing)
    return "failed, see below" if tried else "no run yet"


def _price(row: Row, base: Row, metric: str) -> str:
    price = row.seconds_per_point(base, metric)
    if price is None:
        return "no gain" if row.differences and row.differences[metric].units > 1 else ""
    return f"{price:.0f}" if price > 0 else "no extra cost"


def _number(value: float, template: str) -> str:
    return "" if math.isnan(value) else template.format(value)


def _cells(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _legend(outcome: Outcome) -> list[str]:
    kind, count = _units(outcome)
    compared = sum(bool(row.differences) for row in outcome.rows)
    done = sum(len(row.records) for row in outcome.rows)
    lines = []
    if count > 1:
        repeated = f" ({len(outcome.blocks)} runs; those of one fold are averaged first)" if kind == "folds" else ""
        lines.append(f"± is the standard error over {count} {kind}{repeated}.")
    if count > 1 and compared:
        lines[-1] += (
            " Differences are paired by seed and classes, and called better or worse if the 95 % interval of Student's "
            f"t excludes 0; of {compared} such comparisons about one in twenty does so by chance. `*` marks those that "
            "remain significant after Holm's correction."
        )
    lines += [
        "",
        "Time is the CPU time of a training on one thread, memory its peak memory beyond that of the process before "
        "it; both relative to the compared entry. The last column is the extra CPU time of a run per point gained, "
        "where a gain was measured.",
    ]
    missing = len(outcome.rows) * len(outcome.blocks) - done
    if missing:
        lines += ["", f"**Not complete: {done} of {done + missing} runs are done.**"]
    return lines


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _units(outcome: Outcome) -> tuple[str, int]:
    units = units_of(outcome.blocks)
    folds = len({block.fold for block in outcome.blocks}) > 1
    return "folds" if folds else "seeds", len(set(units))


def _ranks(outcome: Outcome) -> list[str]:
    lines = ["## Ranks", ""]
    ranks = outcome.ranks
    if ranks is None:
        return [*lines, "Not computed: ranks need three comparable entries without a missing run, and two units.", ""]
    word = "finds a difference" if ranks.p < 0.05 else "finds no difference"
    primary = _METRIC_NAMES.get(outcome.comparison.primary, outcome.comparison.primary)
    order = sorted(range(len(outcome.ranked)), key=lambda index: ranks.means[index])
    means = ", ".join(f"{outcome.row(outcome.ranked[index]).label} {ranks.means[index]:.1f}" for index in order)
    return [
        *lines,
        f"Mean ranks by {primary} over {ranks.units} {_units(outcome)[0]}: {means}.",
        "",
        f"Friedman's test {word} between the entries (p = {ranks.p:.2g}). Nemenyi's critical difference is "
        f"{ranks.critical_difference:.1f} ranks: entries that differ by less, joined by a bar in `ranks.png`, are not "
        f"significantly different. With few {_units(outcome)[0]} and many entries this test has little power.",
        "",
    ]


def _notes(outcome: Outcome) -> list[str]:
    lines = ["## Entries", ""]
    for row in outcome.rows:
        notes = []
        if row.entry.note:
            notes.append(row.entry.note.strip().rstrip(".") + ".")
        if row.entry.unlike:
            keys = f" (differs in {', '.join(row.unlike)})" if row.unlike else " (differs in nothing that was compared)"
            notes.append(f"† Unlike the others{keys}: {row.entry.unlike.strip().rstrip('.')}.")
        notes += _choice(row, _METRIC_NAMES.get(outcome.comparison.primary, outcome.comparison.primary))
        failed = len(row.records) - len(row.good)
        if failed:
            notes.append(f"{failed} of {len(row.records)} runs failed: {row.errors[0]}")
        if notes:
            lines.append(f"- **{row.label}** (`{row.entry.name}`): {' '.join(notes)}")
    return [*lines, ""]


def _choice(row: Row, primary: str) -> list[str]:
    chosen = row.chosen
    if not chosen.values:
        return []
    if chosen.candidate is None:
        return [f"No values chosen: {'trials are missing' if chosen.missing else 'every trial failed'}."]
    failed = sum(value is None for value in chosen.values)
    lines = [f"Chosen in {len(chosen.values)} trials: {format_values(chosen.candidate.values)}."]
    if failed:
        lines.append(f"{failed} of the trials failed.")
    if chosen.at_end:
        paths = ", ".join(path.rpartition(".")[2] for path in chosen.at_end)
        lines.append(f"The best {paths} is at the end of its list: a better value may lie beyond it.")
    if chosen.tried:
        each = (
            f"{format_values(values)} {'failed' if value is None else f'{100 * value:.1f} %'}"
            for values, value in zip(chosen.tried, chosen.values, strict=True)
        )
        lines.append(f"{primary} of the trials: {'; '.join(each)}.")
    return lines


def _conditions(outcome: Outcome, images: Images) -> list[str]:
    comparison = outcome.comparison
    record = next((record for row in outcome.rows for record in row.good.values()), None)
    if record is None:
        return []
    sizes = [len(names) for names in images.folds]
    lines = ["## Conditions", ""]
    if comparison.overrides:
        lines.append(f"- Set on the command line: {', '.join(f'`{text}`' for text in comparison.overrides)}.")
    lines.append(
        f"- {sum(sizes)} classes outside the test half, split into {len(sizes)} folds of {min(sizes)} to {max(sizes)}."
    )
    trials = max(len(row.chosen.values) for row in outcome.rows)
    if trials and comparison.judge != "choice":
        lines.append(f"- Tuned on fold 0: {_count(trials, 'trial')} per entry, seed 0.")
    if comparison.validation and comparison.judge != "choice":
        lines.append("- Fold 0 also selects the epoch of each run; no run of the table trains on its classes.")
    elif not comparison.validation:
        lines.append("- Every run is evaluated after its last epoch.")
    lines.append(_judged(outcome))
    settings = record["settings"]
    encoder, training = settings["encoder"], settings["training"]
    lines.append(
        f"- Encoder {encoder['name']} {encoder['params']}, {record['encoder_weights']:,} weights, embeddings of "
        f"{record['dimension']}; {training['epochs']} epochs of {training['steps_per_epoch'] or 'all'} steps, "
        f"augmentation {training['augmentation'] or 'none'}."
    )
    seconds = sum(r.get("cpu_seconds", 0.0) for row in outcome.rows for r in row.good.values())
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines.append(f"- {record['machine']}; {versions}. The runs in the table took {seconds / 3600:.1f} CPU hours.")
    return lines


def _judged(outcome: Outcome) -> str:
    counts = [(r["queries"], len(r["per_class"])) for row in outcome.rows[:1] for r in row.good.values()]
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(block.seed for block in outcome.blocks))
    if outcome.comparison.judge == "choice":
        return (
            f"- Trials only: {CHOICE.title}, which also selects the epoch of each run with `validation`. A row shows "
            "the best trial of its entry: for exploration, not a fair comparison. No other fold was evaluated, and the "
            "test half was not read."
        )
    if outcome.comparison.judge == "test":
        evaluated = _count_test_settings(outcome.comparison.folder / "records")
        return (
            f"- Evaluated on the test half, seeds {seeds}. {evaluated} settings were evaluated on it in this folder: "
            "do not choose settings by these numbers."
        )
    folds = ", ".join(str(fold) for fold in dict.fromkeys(block.fold for block in outcome.blocks))
    text = f"- Evaluated on folds {folds}, seeds {seeds}: {_count(len(outcome.blocks), 'run')} per entry."
    if counts:
        queries, classes = (statistics.mean(side) for side in zip(*counts, strict=True))
        text += f" A run has {queries:.0f} queries of {classes:.0f} classes on average;"
        text += " the gallery is all other images of the fold."
    return f"{text} The test half was not read."


def _count_test_settings(folder: Path) -> int:
    """Number of settings, regardless of the seed, with a record on the test half."""
    seen = set()
    for path in folder.glob("*.json"):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record.get("judge") is None:
            seen.add(json.dumps({**record["settings"], "seed": None}, sort_keys=True))
    return len(seen)
