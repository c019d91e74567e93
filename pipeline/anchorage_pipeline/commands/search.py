"""`anchorage search`: queries in, a printed list of the nearest gallery items out, and on request a picture."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorage.errors import DataError, UsageError
from anchorage_pipeline.console import answer, no_native_messages
from anchorage_pipeline.options import add_release, find_release, positive
from anchorage_pipeline.queries import read_queries
from anchorage_pipeline.startup import load_tensorflow

if TYPE_CHECKING:
    from anchorage.serving.searcher import Answer, Searcher

_SHEET_ROWS, _SHEET_COLUMNS = 100, 20  # limits of the picture, which would else take gigabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the queries, the release, and how to show the results."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="query image files")
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="TEXT", help="descriptions; needs a release of an image-text encoder"
    )
    add_release(parser)
    parser.add_argument("--neighbors", type=positive, default=10, metavar="K", help="results per image (default: 10)")
    parser.add_argument("--picture", metavar="FILE", help="draw a contact sheet of the results (default: none)")


def run(options: argparse.Namespace) -> None:
    """Print the nearest gallery items of each image, vector and description, and draw them if `--picture` asks for it.

    Raises:
        UsageError: E_IMAGE_MISSING, if a file does not exist or nothing is searched for; E_PICTURE_PLACE, if the
            picture is a folder or lies in a folder that does not exist; E_NO_TEXT, if the release has no text encoder.
        DataError: E_NO_IMAGES, if no query can be used.
    """
    from anchorage.release import open_release

    texts, neighbors = options.text, options.neighbors
    if not options.images and not texts:
        raise UsageError("E_IMAGE_MISSING", "Expected images, or descriptions with --text. Received: neither")
    releases = find_release(options.release)
    picture = Path(options.picture) if options.picture else None
    if picture and (picture.is_dir() or not picture.parent.is_dir()):
        raise UsageError(
            "E_PICTURE_PLACE",
            f"`--picture` must name a file in an existing folder. Received: {picture}, "
            + ("which is a folder." if picture.is_dir() else f"but there is no folder {picture.parent}."),
        )
    release = open_release(releases)
    data = release.facts.get("experiment", {}).get("data", {})
    vectors = data.get("input") == "vectors"
    given = read_queries(options.images, vectors=vectors)
    load_tensorflow()
    from anchorage.serving.searcher import Searcher

    with no_native_messages():
        searcher = Searcher(release)
    answers = [
        *(searcher.search_text(texts, neighbors) if texts else []),
        *(searcher.search([query.content for query in given], neighbors) if given else []),
    ]
    names = [query.name for query in given]
    queries = [*texts, *names]
    for query, found in zip(queries, answers, strict=True):
        print(query)
        _print_answer(found, "vector" if vectors else "image")
    if all(found.fault for found in answers):
        raise DataError("E_NO_IMAGES", "Expected at least one readable query. None can be used, see above")
    _print_notes(searcher, answers, neighbors, has_texts=bool(texts), has_images=bool(names))
    if picture:
        _draw(searcher, queries, [*(None for _ in texts), *(query.picture for query in given)], answers, picture)
        print(f"picture  {picture}   (release {release.version} of {releases})")
        if len(answers) > _SHEET_ROWS or neighbors > _SHEET_COLUMNS:
            print(f"         limited to {_SHEET_ROWS} images and {_SHEET_COLUMNS} results each")
    kinds = [*({"text": text} for text in texts), *({"image": name} for name in names)]
    documents = [{**kind, **_document(found)} for kind, found in zip(kinds, answers, strict=True)]
    notes = {
        "likely_from": searcher.threshold,
        "unknown_below": searcher.unknown_below,
        "unknown_rates": searcher.unknown_rates and searcher.unknown_rates._asdict(),
        "doubts": searcher.doubts,
    }
    answer({"release": release.address, "version": release.version, "queries": documents, **notes})


def _print_answer(found: "Answer", kind: str) -> None:
    if found.fault:
        print(f"  {found.fault.code}: {found.fault.message}")
        return
    if found.left_out:
        print(f"  the query {kind} is in the gallery and left out of its results: {', '.join(found.left_out)}")
    if found.unknown:
        print("  unknown: the gallery may lack its class; the percentages assume that it does not")
    for rank, row in enumerate(_document(found)["results"], 1):
        percent = "     " if row["probability"] is None else f"{100 * row['probability']:3.0f} %"
        label = "" if row["label"] == row["id"] else row["label"]  # an image without a label has its id for one
        print(f"  {rank:>3}  {row['score']:.4f}  {percent}  {'*' if row['likely'] else ' '} {label:<24} {row['id']}")


def _print_notes(
    searcher: "Searcher", answers: Sequence["Answer"], neighbors: int, *, has_texts: bool, has_images: bool
) -> None:
    if min(len(found.ids) for found in answers if not found.fault) < neighbors:
        print(f"the gallery has only {searcher.index.rows:,} items: fewer results than the requested {neighbors:,}")
    if has_texts:
        print("descriptions have no match probability and no likely match: both are calibrated between images")
    if has_images and searcher.threshold is not None:
        print(f"* cosine at or above {searcher.threshold:.3f}, which few pairs of different validation classes reach")
    if searcher.probability:
        print("percent: match probability, for an image of a class that the model was not trained on")
    if searcher.unknown_rates and any(found.unknown for found in answers):
        missing, present = (f"{100 * rate:.0f} %" for rate in searcher.unknown_rates)
        print(f"unknown: so are {missing} of the test queries whose class the gallery lacks, and {present} of others")
    for doubt in searcher.doubts:
        print(doubt)


def _draw(
    searcher: "Searcher",
    queries: Sequence[str],
    files: Sequence[Path | None],
    answers: Sequence["Answer"],
    picture: Path,
) -> None:
    """Draw the queries that can be used, with the file that shows each, if any."""
    from anchorage.reporting.pictures import Answered, Neighbor, draw_sheet, read_picture, read_picture_of
    from anchorage.serving.pictures import picture_paths

    root, paths = searcher.release.facts.get("data_root", "."), picture_paths(searcher.release, searcher.gallery)
    sheet: list[Answered] = []
    for query, file, found in zip(queries, files, answers, strict=True):
        if found.fault or len(sheet) == _SHEET_ROWS:
            continue
        results = list(zip(found.ids, found.labels, found.scores, strict=True))[:_SHEET_COLUMNS]
        pictures = [
            Neighbor(label, score, None, read_picture_of(root, paths.get(id_, id_))) for id_, label, score in results
        ]
        shown = read_picture(file) if file else None
        sheet.append(Answered(Path(query).name if file else query, "query", shown, pictures))
    draw_sheet(sheet, picture)


def _document(found: "Answer") -> dict[str, Any]:
    none = [None] * len(found.ids)
    columns = (found.ids, found.labels, found.scores, found.likely or none, found.probabilities or none)
    keys = ("id", "label", "score", "likely", "probability")
    return {
        "fault": found.fault._asdict() if found.fault else None,
        "unknown": found.unknown,
        "left_out": found.left_out,
        "results": [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)],
    }
