"""`anchorage embed`: the embeddings of any number of images, computed with Beam."""

import argparse

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_release, find_release, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the images, the release and the table."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders, quoted patterns, tables or lists (.txt) of images, URIs, or tables of vectors",
    )
    add_release(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="TABLE",
        help="table to write: one file if it ends in .parquet, else a folder of Parquet files (required)",
    )
    parser.add_argument("--upsert", metavar="URL", help="also add the items to a service, with $ANCHORAGE_API_KEY")
    parser.add_argument(
        "--stall-minutes",
        type=positive,
        default=30,
        metavar="N",
        help="give up if workers in other processes finish no shard for N minutes (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Embed images into a Parquet table with the model of a release; rejected images are listed beside it.

    Raises:
        UsageError, DataError, ResourceError: as `embed_files` and `ServedIndex`.
    """
    from anchorage.release import open_release
    from anchorage_pipeline.upsert import ServedIndex

    releases, output = find_release(options.release), options.output
    release = open_release(releases)
    served = ServedIndex(options.upsert, release.model_fingerprint) if options.upsert else None
    from anchorage_components.beam.bulk import embed_files, rejects_file

    with progress():
        counts = embed_files(
            options.images, release.path, output, options.beam_arguments, stall_seconds=60.0 * options.stall_minutes
        )
        added = served.add(output) if served else None
    facts = {"embedded": counts.embedded, "rejected": counts.rejected, "resumed": counts.resumed, "added": added}
    answer({"table": output, "release": release.path, **facts})
    print(f"{counts.embedded:,} items embedded into {output} with release {release.version} of {releases}")
    if counts.resumed:
        print(f"{counts.resumed:,} of all items done by an earlier run")
    if counts.rejected:
        print(f"{counts.rejected} rejected, listed in {rejects_file(output)}")
    if served:
        print(f"{added} added to the items of {options.upsert}")
