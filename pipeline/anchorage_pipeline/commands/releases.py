"""`anchorage releases`: the versions in a folder of releases, and the way back to an earlier one."""

import argparse

from anchorage_pipeline.console import answer
from anchorage_pipeline.options import add_release, find_release, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to do, and with which version."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=["list", "rollback"],
        default="list",
        help="what to do (default: list)",
    )
    parser.add_argument(
        "--to",
        type=positive,
        metavar="VERSION",
        help="version to roll back to (default: the newest intact one that differs from the current)",
    )
    add_release(parser)


def run(options: argparse.Namespace) -> None:
    """List the releases, or make an earlier one the current one."""
    folder = find_release(options.release)
    if options.action == "list":
        _list(folder)
        return
    from anchorage.release import roll_back

    current = roll_back(folder, options.to)
    answer({"folder": folder, "current": current})
    print(f"current release: {current} (in {folder})")


def _list(folder: str) -> None:
    from anchorage.release import current_version, list_releases, open_release

    print(f"releases in {folder}")
    listed = list_releases(folder)
    answer({"folder": folder, "releases": [release._asdict() for release in listed]})
    for release in listed:
        mark = "->" if release.current else "  "
        metrics = release.facts.get("metrics", {})
        details = release.fault or "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"{mark} {release.version:>4}  {release.created}  {details}")
    if current_version(folder) not in (None, *(release.version for release in listed)):
        open_release(folder)  # raises an error that names the missing version
