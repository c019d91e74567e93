"""`anchorage runs`: what was evaluated, with its verdict, metrics and date."""

import argparse
from dataclasses import asdict
from pathlib import Path

from anchorage.errors import UsageError
from anchorage_pipeline.console import answer
from anchorage_pipeline.results import in_percent, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the folder."""
    parser.add_argument(
        "folder",
        nargs="?",
        default="runs",
        metavar="FOLDER",
        help="folder of runs, or of one experiment in it (default: runs)",
    )


def run(options: argparse.Namespace) -> None:
    """List the evaluated candidates of runs and plain trainings, oldest first.

    Raises:
        UsageError: E_NO_RUN, if there is no such folder or nothing was evaluated.
    """
    from anchorage_pipeline.history import list_candidates

    folder = Path(options.folder)
    candidates = list_candidates(folder.absolute()) if folder.is_dir() else []
    if not candidates:
        raise UsageError("E_NO_RUN", f"Expected runs in {folder}. Found none: start one with `anchorage run FILE`")
    answer({"folder": folder, "runs": [asdict(candidate) for candidate in candidates]})
    width = max(len(candidate.experiment) for candidate in candidates)
    for candidate in candidates:
        date = candidate.created[:16].replace("T", " ")
        state = candidate.verdict or candidate.kind
        told = candidate.fault or in_percent({name: candidate.metrics[name] for name in candidate.headline})
        release = f"  release {candidate.release.rpartition('/')[2]}" if candidate.release else ""
        print(f"{date}  {candidate.experiment:<{width}}  {state:<6}  {told}{release}")
        print(f"{'':18}{candidate.command or 'anchorage ' + candidate.kind}  {shown(candidate.report)}")
    print("metrics in percent on the test split; dates in UTC")
