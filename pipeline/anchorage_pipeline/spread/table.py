"""Format a spread for the terminal."""

from collections.abc import Sequence

from anchorage_pipeline.spread.record import Machine, Row, describe

_FIELDS = ("mean", "deviation", "lowest", "highest")


def format_row(row: Row) -> str:
    """The result of one training in a line, in percent."""
    values = "  ".join(f"{name} {100 * value:.1f}" for name, value in row.values.items())
    return f"seed {row.seed:<4} {values}  (epoch {row.best_epoch}, {row.seconds:.0f} s)"


def format_table(rows: Sequence[Row]) -> str:
    """Statistics of each metric over the seeds of each machine, in percent, and over all machines if there are several.

    Args:
        rows: results of one or more machines.
    """
    machines: dict[Machine, list[Row]] = {}
    for row in rows:
        machines.setdefault(row.machine, []).append(row)
    parts = [[machine.title, *_lines(machine_rows)] for machine, machine_rows in machines.items()]
    if len(machines) > 1:
        parts.append([f"all {len(machines)} machines, {len(rows)} trainings", *_lines(rows, seeds=False)])
    return "\n\n".join("\n".join(part) for part in parts)


def _lines(rows: Sequence[Row], *, seeds: bool = True) -> list[str]:
    if len(rows) == 1:
        return [format_row(rows[0])]
    table = [["percent", *_FIELDS, *([f"seed {row.seed}" for row in rows] if seeds else [])]]
    for name, summary in describe(rows).items():
        values = [getattr(summary, field) for field in _FIELDS] + ([row.values[name] for row in rows] if seeds else [])
        table.append([name, *(f"{100 * value:.1f}" for value in values)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in table
    ]
