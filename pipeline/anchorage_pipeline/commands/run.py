"""`anchorage run`: the whole pipeline."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from anchorage.storage import parent
from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.logs import add_log, choose_format
from anchorage_pipeline.options import add_experiment
from anchorage_pipeline.results import print_recipe, print_result, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiment, and whether to start without a cache."""
    add_experiment(parser)
    parser.add_argument(
        "--reset-metadata",
        action="store_true",
        help="move the metadata of earlier runs aside and start without a cache (default: reuse it)",
    )
    add_log(parser)
    parser.add_argument(
        "--if-needed",
        action="store_true",
        help="run only if the current release passes a limit of [trigger], for schedules (default: run)",
    )


def run(options: argparse.Namespace) -> None:
    """Run the pipeline, then print the state of each node, the result and the paths of report and release.

    Raises:
        GateError: if the gate rejected the candidate, once the result is printed.
    """
    from anchorage_pipeline import api
    from anchorage_pipeline.config import load_experiment
    from anchorage_pipeline.tracing import start_tracing

    choose_format(options.log)
    start_tracing()
    experiment = load_experiment(options.experiment, options.set)
    need = None
    if options.if_needed:
        from anchorage_pipeline.trigger import find_need

        need = find_need(experiment)
        if not need.is_met:
            answer({"needed": False, "release": need.release, "reasons": need.reasons})
            print(f"not needed: {need.describe()}")
            return
        with progress():
            print("\n".join(f"needed   {reason}" for reason in need.reasons))
    with progress():
        outcome = api.run(experiment, reset_metadata=options.reset_metadata, trigger=need.to_facts() if need else None)
    seconds, folder = outcome.seconds, outcome.report.parent
    answer(
        {
            "nodes": {node: {"state": state, "seconds": seconds.get(node)} for node, state in outcome.nodes.items()},
            "metrics": outcome.metrics,
            "verdict": json.loads((folder / "report.json").read_text(encoding="utf-8"))["verdict"],
            "report": outcome.report,
            "release": _release_document(str(outcome.release)) if outcome.release else None,
        }
    )
    print()
    for node, state in outcome.nodes.items():
        print(f"  {node:<24} {state.lower():<9} {seconds.get(node, 0.0):7.1f} s")
    print()
    print_recipe(folder)
    print_result(folder)
    if outcome.release:
        _print_release(str(outcome.release))
    if outcome.refused:
        raise outcome.refused


def _release_document(release: str) -> dict[str, Any]:
    from anchorage.release import current_version

    version = int(release.rpartition("/")[2])
    return {"path": release, "version": version, "current": current_version(parent(release)) == version}


def _print_release(release: str) -> None:
    from anchorage.release import current_version
    from anchorage.release.manifest import TEXT, read_manifest

    releases, version = parent(release), release.rpartition("/")[2]
    current = current_version(releases)
    print(f"release  {shown(release)}")
    if current != int(version):
        print(
            f"         release {current} is the current one, not this one; to switch: "
            f"`anchorage releases rollback --release {shown(releases)} --to {version}`"
        )
    command, manifest = _own_command(), read_manifest(release)
    data = manifest["facts"].get("experiment", {}).get("data", {})
    query = "TABLE" if data.get("input") == "vectors" else "IMAGE"
    print(f"search   {command} search {query} --release {shown(releases)}")
    if any(name.startswith(f"{TEXT}/") for name in manifest["files"]):
        print(f'         {command} search --text "DESCRIPTION" --release {shown(releases)}')


def _own_command() -> str:
    """Command that calls this installation: its name if its environment is first on the PATH, otherwise its path."""
    own = Path(sys.executable).absolute().parent / "anchorage"
    return "anchorage" if shutil.which("anchorage") == str(own) else str(shown(own))
