"""`anchorage embed`: the embeddings of any number of images, computed with Beam."""

import argparse
from pathlib import Path

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_release, find_release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the images, the release and the table."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files, folders or tables of images, or tables of vectors"
    )
    add_release(parser)
    parser.add_argument("--output", required=True, metavar="TABLE.parquet", help="table to write (required)")


def run(options: argparse.Namespace) -> None:
    """Embed images into a Parquet table with the model of a release; rejected images are listed beside it."""
    from anchorage.release import open_release

    releases, output = find_release(options.release), Path(options.output)
    release = open_release(releases)
    from anchorage_components.beam.embedding import embed_files

    with progress():
        counts = embed_files(options.images, release.path, output, options.beam_arguments)
    answer({"table": output, "release": release.path, "embedded": counts.embedded, "rejected": counts.rejected})
    print(f"{counts.embedded} images embedded into {output} with release {release.version} of {releases}")
    if counts.rejected:
        print(f"{counts.rejected} rejected, listed in {output}.rejects.jsonl")
