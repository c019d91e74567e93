"""`anchorage runs`: what was evaluated, with its verdict, metrics and date."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage.errors import UsageError
from anchorage.storage import Copy, MissingObjectError, is_remote
from anchorage_pipeline.console import answer
from anchorage_pipeline.results import in_percent, shown

if TYPE_CHECKING:
    from anchorage_pipeline.history import Candidate

_EVALUATIONS = ("artifacts/EvaluateRetrieval/report/", "artifacts/PublishRelease/release/")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the folder."""
    parser.add_argument(
        "folder",
        nargs="?",
        default="runs",
        metavar="FOLDER",
        help="folder of runs, or of one experiment in it, or its URI (default: runs)",
    )


def run(options: argparse.Namespace) -> None:
    """List the evaluated candidates of runs and plain trainings, oldest first.

    Raises:
        UsageError: E_NO_RUN, if there is no such folder or nothing was evaluated.
    """
    candidates = _list_candidates(options.folder)
    if not candidates:
        raise UsageError(
            "E_NO_RUN", f"Expected runs in {options.folder}. Found none: start one with `anchorage run FILE`"
        )
    answer({"folder": options.folder, "runs": [asdict(candidate) for candidate in candidates]})
    width = max(len(candidate.experiment) for candidate in candidates)
    for candidate in candidates:
        date = candidate.created[:16].replace("T", " ")
        state = candidate.verdict or candidate.kind
        outcome = candidate.fault or in_percent({name: candidate.metrics[name] for name in candidate.headline})
        release = f"  release {candidate.release.rpartition('/')[2]}" if candidate.release else ""
        print(f"{date}  {candidate.experiment:<{width}}  {state:<6}  {outcome}{release}")
        print(f"{'':18}{candidate.command or 'anchorage ' + candidate.kind}  {shown(candidate.report)}")
    print("metrics in percent on the test split; dates in UTC")


def _list_candidates(folder: str) -> list["Candidate"]:
    """The candidates of a folder; of one in an object store its reports are copied."""
    from anchorage_pipeline.history import list_candidates

    if not is_remote(folder):
        return list_candidates(Path(folder).absolute()) if Path(folder).is_dir() else []
    try:
        with Copy(folder, lambda name: any(part in name for part in _EVALUATIONS)) as copy:
            return list_candidates(copy.path)
    except MissingObjectError:
        return []
