"""The table of a comparison in Markdown, in words that promise no more than was measured."""

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

_SHOWN = {"map@r": "MAP@R", "r_precision": "R-precision"}


def write_table(outcome: Outcome, images: Images, path: Path) -> None:
    """Write table, notes and conditions, whole or not at all."""
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
    """A difference in points with its standard error, and whether it is one.

    Example:
        >>> format_difference(Difference(mean=0.003, error=0.006, units=3, low=-0.02, high=0.03, p=0.7))
        'no difference measured: +0.3 ± 0.6'
    """
    if difference is None:
        return ""
    if difference.units < 2:
        return f"one run, no error known: {100 * difference.mean:+.1f}"
    told = f"{100 * difference.mean:+.1f} ± {100 * difference.error:.1f}"
    if not difference.measured:
        return f"no difference measured: {told}"
    return f"{'better' if difference.mean > 0 else 'worse'}: {told}{' *' if holds else ''}"


def _head(outcome: Outcome) -> list[str]:
    metrics = outcome.comparison.metrics
    names = [_SHOWN.get(metric, metric) for metric in metrics]
    primary = _SHOWN.get(outcome.comparison.primary, outcome.comparison.primary)
    cells = ["entry", *(f"{name}, %" for name in names), "against", *(f"{name}, points" for name in names)]
    cells += ["CPU s a run", "time", "memory", f"s a point of {primary}"]
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
        return "nothing won" if row.differences and row.differences[metric].units > 1 else ""
    return f"{price:.0f}" if price > 0 else "costs no more"


def _number(value: float, shape: str) -> str:
    return "" if math.isnan(value) else shape.format(value)


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
            " A difference is taken run by run on the same seed and classes, and called one if the 95 % interval of "
            f"Student's t leaves out 0; of {compared} such comparisons about one in twenty does so by chance. `*` "
            "marks those that remain after Holm's correction for their number."
        )
    lines += [
        "",
        "Time is that of the processor for a whole training on one thread, memory what the training took beyond what "
        "the process held before; both relative to the entry compared with. The last column is the extra processor "
        "time of a run for each point won, where a gain was measured.",
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
        return [*lines, "Not told: ranks need three alike entries without a missing run, and two units.", ""]
    word = "tells the entries apart" if ranks.p < 0.05 else "does not tell the entries apart"
    primary = _SHOWN.get(outcome.comparison.primary, outcome.comparison.primary)
    order = sorted(range(len(outcome.ranked)), key=lambda place: ranks.means[place])
    told = ", ".join(f"{outcome.row(outcome.ranked[place]).label} {ranks.means[place]:.1f}" for place in order)
    return [
        *lines,
        f"Mean ranks by {primary} over {ranks.units} {_units(outcome)[0]}: {told}.",
        "",
        f"Friedman's test {word} (p = {ranks.p:.2g}). Nemenyi's critical difference is {ranks.critical_difference:.1f} "
        "ranks: entries nearer than that, joined by a bar in `ranks.png`, are not told apart. With few "
        f"{_units(outcome)[0]} and many entries this test is blunt.",
        "",
    ]


def _notes(outcome: Outcome) -> list[str]:
    lines = ["## Entries", ""]
    for row in outcome.rows:
        told = []
        if row.entry.note:
            told.append(row.entry.note.strip().rstrip(".") + ".")
        if row.entry.unlike:
            keys = f" (differs in {', '.join(row.unlike)})" if row.unlike else " (differs in nothing that was compared)"
            told.append(f"† Unlike the others{keys}: {row.entry.unlike.strip().rstrip('.')}.")
        told += _choice(row, _SHOWN.get(outcome.comparison.primary, outcome.comparison.primary))
        failed = len(row.records) - len(row.good)
        if failed:
            told.append(f"{failed} of {len(row.records)} runs failed: {row.errors[0]}")
        if told:
            lines.append(f"- **{row.label}** (`{row.entry.name}`): {' '.join(told)}")
    return [*lines, ""]


def _choice(row: Row, primary: str) -> list[str]:
    chosen = row.chosen
    if not chosen.values:
        return []
    if chosen.candidate is None:
        return [f"No values chosen: {'trials are missing' if chosen.missing else 'every trial failed'}."]
    failed = sum(value is None for value in chosen.values)
    told = [f"Chosen in {len(chosen.values)} trials: {format_values(chosen.candidate.values)}."]
    if failed:
        told.append(f"{failed} of the trials failed.")
    if chosen.at_end:
        paths = ", ".join(path.rpartition(".")[2] for path in chosen.at_end)
        told.append(f"The best {paths} lies at the end of its list: a better one may lie outside.")
    if chosen.tried:
        each = (
            f"{format_values(values)} {'failed' if value is None else f'{100 * value:.1f} %'}"
            for values, value in zip(chosen.tried, chosen.values, strict=True)
        )
        told.append(f"{primary} of the trials: {'; '.join(each)}.")
    return told


def _conditions(outcome: Outcome, images: Images) -> list[str]:
    comparison = outcome.comparison
    record = next((record for row in outcome.rows for record in row.good.values()), None)
    if record is None:
        return []
    sizes = [len(names) for names in images.folds]
    lines = ["## Conditions", ""]
    lines.append(
        f"- {sum(sizes)} classes outside the test half, dealt into {len(sizes)} folds of {min(sizes)} to {max(sizes)}."
    )
    trials = max(len(row.chosen.values) for row in outcome.rows)
    if trials and comparison.judge != "choice":
        lines.append(f"- Fold 0 made the choices: {_count(trials, 'trial')} an entry, seed 0.")
    if comparison.validation and comparison.judge != "choice":
        lines.append("- It also chose the epoch of each run; no run of the table trains on its classes.")
    elif not comparison.validation:
        lines.append("- Every run is judged after its last epoch.")
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
    lines.append(f"- {record['machine']}; {versions}. The runs in the table took {seconds / 3600:.1f} processor hours.")
    return lines


def _judged(outcome: Outcome) -> str:
    counts = [(r["queries"], len(r["per_class"])) for row in outcome.rows[:1] for r in row.good.values()]
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(block.seed for block in outcome.blocks))
    if outcome.comparison.judge == "choice":
        return (
            f"- Trials only: {CHOICE.told}, which also chose the epoch of each run where one was chosen. A row holds "
            "its entry's best trial: to find causes and settings by, no verdict. No other fold was judged, and the "
            "test half was not opened."
        )
    if outcome.comparison.judge == "test":
        looks = _looks(outcome.comparison.folder / "records")
        return (
            f"- Judged on the test half, seeds {seeds}. {looks} settings were judged on it in this folder: "
            "nothing may be chosen by these figures."
        )
    folds = ", ".join(str(fold) for fold in dict.fromkeys(block.fold for block in outcome.blocks))
    told = f"- Judged by folds {folds}, seeds {seeds}: {_count(len(outcome.blocks), 'run')} an entry."
    if counts:
        queries, classes = (statistics.mean(side) for side in zip(*counts, strict=True))
        told += f" A run has {queries:.0f} queries of {classes:.0f} classes on average;"
        told += " the gallery is all other images of the fold."
    return f"{told} The test half was not opened."


def _looks(folder: Path) -> int:
    """How many settings, seeds aside, have a record on the test half."""
    seen = set()
    for path in folder.glob("*.json"):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record.get("judge") is None:
            seen.add(json.dumps({**record["settings"], "seed": None}, sort_keys=True))
    return len(seen)
