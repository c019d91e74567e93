"""`anchorage compare`: the losses of a comparison file, over seeds and class folds."""

import argparse
from pathlib import Path

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_overrides, positive
from anchorage_pipeline.results import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the comparison, and which of its entries to run."""
    parser.add_argument("comparison", metavar="FILE", help="comparison file (TOML)")
    add_overrides(parser, "a value of the file, such as seeds=[1], or of its experiment, such as training.epochs=3")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="parallel processes (default: 1)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="run only these entries and the entries that they are compared against (default: all)",
    )


def run(options: argparse.Namespace) -> None:
    """Run the missing runs of the comparison, then print the table and the paths of table and figures."""
    from anchorage_pipeline.comparison import compare

    with progress():
        outcome = compare(Path(options.comparison), options.jobs, options.only, options.set)
    folder = outcome.comparison.folder
    rows = {row.entry.name: {name: value._asdict() for name, value in row.values.items()} for row in outcome.rows}
    answer({"entries": rows, "overrides": options.set, "table": folder / "table.md", "pictures": outcome.pictures})
    print((folder / "table.md").read_text(encoding="utf-8").partition("\n## ")[0])
    print(f"table    {shown(folder / 'table.md')}")
    for picture in outcome.pictures:
        print(f"picture  {shown(picture)}")
