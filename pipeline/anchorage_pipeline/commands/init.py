"""`anchorage init`: an experiment file for the user's own data."""

import argparse

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the data, the file to write and the time for a run."""
    parser.add_argument("photos", metavar="PHOTOS", help="folder or table of images, or a table of vectors")
    parser.add_argument("--output", metavar="FILE.toml", help="file to write (default: <name>.toml)")
    parser.add_argument("--name", metavar="NAME", help="name of the experiment (default: that of PHOTOS)")
    parser.add_argument(
        "--minutes", type=positive, default=10, metavar="N", help="time for a run on this machine (default: 10)"
    )


def run(options: argparse.Namespace) -> None:
    """Inspect the data and write the file."""
    from anchorage_pipeline.starter import start_experiment

    with progress():
        start = start_experiment(
            options.photos, output=options.output or "", name=options.name or "", minutes=options.minutes
        )
    answer(start.document)
    print("\n".join(start.lines))
