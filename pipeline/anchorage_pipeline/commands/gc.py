"""`anchorage gc`: remove what an experiment no longer needs."""

import argparse

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_experiment, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiment, the age, and whether to delete."""
    add_experiment(parser)
    parser.add_argument(
        "--older-than",
        type=whole,
        default=30,
        metavar="DAYS",
        help="age that is kept in any case (default: %(default)s)",
    )
    parser.add_argument("--delete", action="store_true", help="delete; without this option, only list")


def run(options: argparse.Namespace) -> None:
    """List the old artifacts, checkpoints, features and releases of an experiment, and delete them if asked to.

    Raises:
        ResourceError: E_RUN_LOCKED, if a run goes on in the folder.
    """
    from anchorage_pipeline.cleaning import find_unneeded, remove_unneeded
    from anchorage_pipeline.config import load_experiment
    from anchorage_pipeline.lock import hold_folder
    from anchorage_pipeline.results import shown

    experiment = load_experiment(options.experiment, options.set)
    with hold_folder(experiment.run_folder, experiment.name):
        items = find_unneeded(experiment, options.older_than)
        for item in items:
            print(f"{item.kind:<10} {item.size / 2**20:10.1f} MiB {item.days:6.0f} days  {shown(item.path)}")
        if options.delete:
            with progress():
                remove_unneeded(experiment, items)
    total = sum(item.size for item in items)
    answer({"deleted": options.delete, "bytes": total, "items": [item._asdict() for item in items]})
    if not items:
        print(f"nothing to remove: nothing unneeded is older than {options.older_than} days")
    elif options.delete:
        print(f"removed {len(items)} items, {total / 2**20:.1f} MiB")
    else:
        print(f"{len(items)} items, {total / 2**20:.1f} MiB; `anchorage gc {options.experiment} --delete` removes them")
