"""`anchorage drift`: whether live queries are still like those that a release was evaluated on."""

import argparse
from pathlib import Path

from anchorage.errors import GateError
from anchorage_pipeline.console import answer
from anchorage_pipeline.gallery import add_store
from anchorage_pipeline.options import add_release, find_release, positive
from anchorage_pipeline.results import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the queries, the release, and how they are compared."""
    from anchorage.judging.drift import REFERENCES, DriftSettings

    add_release(parser)
    add_store(parser)
    parser.add_argument(
        "--queries",
        metavar="FILE",
        help="embeddings of queries, oldest first: Parquet with the column vector (default: those in the store)",
    )
    parser.add_argument(
        "--window",
        type=positive,
        default=DriftSettings.window,
        metavar="N",
        help="queries per window (default: %(default)s)",
    )
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        default=DriftSettings.reference,
        help="evaluation: the queries that the release was evaluated on; first: the first two windows, "
        "where live queries never were like those (default: %(default)s)",
    )
    parser.add_argument(
        "--false-alarms",
        type=_rate,
        default=DriftSettings.false_alarms,
        metavar="P",
        help="chance that a report without drift says drift (default: %(default)s)",
    )
    parser.add_argument("--output", metavar="FOLDER", help="folder of the report (default: drift-<version>)")


def run(options: argparse.Namespace) -> None:
    """Compare the newest windows of queries with the reference, and write the report.

    Raises:
        GateError: E_DRIFT, if the queries have drifted.
        DataError: E_QUERIES_FEW, E_QUERY_SHAPE, E_TABLE_DAMAGED, E_RELEASE_MIXED.
        UsageError: E_RELEASE_MISSING, E_STORE_URL, E_QUERIES_MISSING, E_DRIFT_SETTING.
    """
    from anchorage.judging.drift import DriftSettings
    from anchorage.release import open_release
    from anchorage_pipeline.drift import examine

    settings = DriftSettings(window=options.window, false_alarms=options.false_alarms, reference=options.reference)
    release = open_release(find_release(options.release))
    document = examine(release, settings, store=options.store, queries=options.queries)
    from anchorage.reporting.drift import write_drift

    page = write_drift(document, Path(options.output or f"drift-{release.version}").absolute())
    answer({**document, "report": page})
    windows, reference = document["windows"], document["reference"]
    print(f"release  {release.version} in {release.folder}")
    print(f"queries  {document['queries']:,}, of which the newest {len(windows) * settings.window:,} are compared")
    print(f"against  {reference['queries']:,} queries ({reference['kind']}), {reference['gallery']:,} gallery items")
    if reference["note"]:
        print(f"note     {reference['note']}")
    for window in windows:
        found = ", ".join(
            f"{document['tests'][name]} (p = {window['p_values'][name]:.2g})" for name in window["drifted"]
        )
        print(f"window   {window['number']:>2} {window['first'] or ''}  {found or 'no drift'}")
    for sentence in [*document["sentences"], *document.get("before", {}).get("sentences", [])]:
        print(f"         {sentence}")
    print(f"report   {shown(page)}")
    if document["drift"]:
        raise GateError("E_DRIFT", f"{document['sentences'][0]} See {shown(page)}")


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number such as 0.01, received {text!r:.60}") from None
