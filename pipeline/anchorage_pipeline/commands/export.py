"""`anchorage export`: parts of a release in the formats of other programs."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_console, find_release
from anchorage_pipeline.results import shown

_RUNTIMES = ("onnx", "litert", "openvino")  # the keys of RUNTIMES in anchorage.serving.runtimes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to export, each with its own arguments."""
    parts = parser.add_subparsers(metavar="PART", required=True, help="part of the release")
    model = parts.add_parser(
        "model",
        help="the encoder, for ONNX Runtime, LiteRT or OpenVINO",
        description="Export the encoder for another runtime, if it gives the same embeddings there.",
        allow_abbrev=False,
    )
    model.add_argument(
        "release",
        nargs="?",
        metavar="RELEASE",
        help="folder of releases, or of one version in it (default: the only one below releases/)",
    )
    model.add_argument("--to", required=True, choices=_RUNTIMES, help="runtime (required)")
    model.add_argument(
        "--output", metavar="FOLDER", help="folder to create (default: <name of the release>-<version>-<runtime>)"
    )
    add_console(model, default=argparse.SUPPRESS)
    model.set_defaults(export=_export_model)


def run(options: argparse.Namespace) -> None:
    """Export the part that was named."""
    options.export(options)


def _export_model(options: argparse.Namespace) -> None:
    from anchorage.release import open_release
    from anchorage_pipeline.startup import load_keras

    release = open_release(find_release(options.release))
    output = Path(options.output or f"{release.path.parent.name}-{release.version}-{options.to}").absolute()
    load_keras()
    from anchorage.serving.conversion import MANIFEST, convert_release

    with progress(), _no_native_messages():
        document = convert_release(release, options.to, output)
    answer({"folder": output, **document})
    comparison, input_ = document["comparison"], document["input"]
    shape = ", ".join("N" if size is None else str(size) for size in input_["shape"])
    print(f"export   {shown(output / document['file'])}, described in {MANIFEST} beside it")
    print(f"input    {input_['name']}: ({shape}) {input_['dtype']}")
    print(
        f"compared with the SavedModel of release {release.version}: largest difference "
        f"{comparison['difference']:.1e}, limit {comparison['limit']:g}, on {comparison['records']}"
    )


@contextmanager
def _no_native_messages() -> Iterator[None]:
    """Drop what the native code of converters and runtimes writes to standard error; its errors are exceptions, too."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
