"""`anchorage report`: the report of a release, or of a release with another as its baseline."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage.errors import UsageError
from anchorage_pipeline.console import answer
from anchorage_pipeline.options import add_release, find_release

if TYPE_CHECKING:
    from anchorage.release import Release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the releases and the folder of a comparison."""
    parser.add_argument(
        "which",
        nargs="*",
        metavar="RELEASE",
        help="version number or release folder (default: the current release); "
        "given two, the second is compared against the first",
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="folder for the comparison of two (default: report-<first>-<second>)"
    )
    add_release(parser)


def run(options: argparse.Namespace) -> None:
    """Print the page of a release's report, or of a new one that compares two releases, and open it in a browser.

    Raises:
        UsageError: E_RELEASE_UNCLEAR for more than two releases.
    """
    import webbrowser

    from anchorage.release import open_release

    if len(options.which) > 2:
        raise UsageError("E_RELEASE_UNCLEAR", f"Expected at most two releases. Received: {' '.join(options.which)}")
    opened = [
        open_release(find_release(options.release), int(one)) if one.isdecimal() else open_release(one)
        for one in options.which
    ]
    if len(opened) == 2:
        older, newer = opened
        folder = Path(options.output or f"report-{older.version}-{newer.version}").absolute()
        page = _compare(older, newer, folder)
    else:
        page = (opened or [open_release(find_release(options.release))])[0].path / "report" / "report.html"
        answer({"report": page})
    print(page)
    if not options.json:
        webbrowser.open(page.as_uri())


def _compare(older: "Release", newer: "Release", folder: Path) -> Path:
    """Write the report of a release with an earlier one as its baseline, and return the path of the page."""
    from anchorage.judging.two_releases import compare_releases
    from anchorage.reporting.pictures import read_picture_of
    from anchorage.reporting.report import write_report
    from anchorage.serving.pictures import picture_paths

    report = compare_releases(older, newer)
    root, paths = newer.facts.get("data_root", "."), picture_paths(newer)
    write_report(report, folder, lambda ids: {id_: read_picture_of(root, paths.get(id_, id_)) for id_ in ids})
    verdict = report["verdict"]
    answer({"report": folder / "report.html", "verdict": verdict})
    print(f"verdict  {verdict['state']}: {' '.join(verdict['reasons'])}")
    return folder / "report.html"
