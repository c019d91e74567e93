"""`anchorage export`: parts of a release in the formats of other programs, or all of it to a hub."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage.disk import disk_fault
from anchorage.errors import UsageError
from anchorage_pipeline.console import answer, no_native_messages, progress
from anchorage_pipeline.gallery import add_store, open_gallery
from anchorage_pipeline.options import add_console, find_release
from anchorage_pipeline.results import shown

if TYPE_CHECKING:
    from anchorage.release import Release

_RUNTIMES = ("onnx", "litert", "openvino")  # the keys of RUNTIMES in anchorage.serving.runtimes
_STORES = ("parquet", "jsonl", "pgvector", "lancedb")
_SEARCH, _TRITON = "scann", "triton"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to export, each with its own arguments."""
    parts = parser.add_subparsers(metavar="PART", required=True, help="part of the release")
    model = parts.add_parser(
        "model",
        help="the encoder, for ONNX Runtime, LiteRT, OpenVINO or Triton; or encoder and index as one SavedModel",
        description="Export the encoder for another runtime, if it gives the same embeddings there. `triton` adds it "
        "to a repository for `anchorage serve --model-server triton:HOST:PORT`. `scann` exports encoder and index "
        "as one SavedModel with ScaNN's operations, which stock TensorFlow Serving lacks.",
        allow_abbrev=False,
    )
    _add_release(model)
    model.add_argument("--to", required=True, choices=(*_RUNTIMES, _TRITON, _SEARCH), help="runtime (required)")
    model.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder to create, or repository to add to (default: <name of the release>-<version>-<runtime>)",
    )
    add_console(model, default=argparse.SUPPRESS)
    model.set_defaults(export=_export_model)

    vectors = parts.add_parser(
        "vectors",
        help="the gallery with its vectors, for other search engines",
        description="Export id, vector, label and attributes of all items, also those added since; resumes if stopped.",
        allow_abbrev=False,
    )
    _add_release(vectors)
    vectors.add_argument("--to", required=True, choices=_STORES, help="format, or kind of database (required)")
    vectors.add_argument(
        "--output",
        metavar="PLACE",
        help="folder, for pgvector postgresql://USER@HOST/DATABASE (default: <name of the release>-<version>-<format>)",
    )
    vectors.add_argument(
        "--table", default="gallery", metavar="NAME", help="table in a database (default: %(default)s)"
    )
    add_store(vectors)
    add_console(vectors, default=argparse.SUPPRESS)
    vectors.set_defaults(export=_export_vectors)

    hub = parts.add_parser(
        "hub",
        help="the whole release, to a repository on the Hugging Face Hub",
        description="Upload a release with its model card, to a repository that is a folder of releases.",
        allow_abbrev=False,
    )
    _add_release(hub)
    hub.add_argument("--to", required=True, metavar="REPOSITORY", help="NAME or ORGANIZATION/NAME (required)")
    hub.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    add_console(hub, default=argparse.SUPPRESS)
    hub.set_defaults(export=_export_hub)


def _add_release(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "release",
        nargs="?",
        metavar="RELEASE",
        help="folder of releases, or of one version in it (default: the only one below releases/)",
    )


def run(options: argparse.Namespace) -> None:
    """Export the part that was named."""
    options.export(options)


def _export_model(options: argparse.Namespace) -> None:
    from anchorage.release import open_release
    from anchorage_pipeline.startup import load_keras

    release = open_release(find_release(options.release))
    output = Path(options.output or f"{release.name}-{release.version}-{options.to}").absolute()
    if options.to == _TRITON:
        _export_triton(release, output)
        return
    load_keras()
    if options.to == _SEARCH:
        _export_search(release, output)
        return
    from anchorage.serving.conversion import MANIFEST, convert_release

    with progress(), no_native_messages():
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


def _export_triton(release: "Release", output: Path) -> None:
    from anchorage_pipeline.serving.triton_repository import write_repository

    version = write_repository(release, output)
    answer({"folder": output, "model": version.parent.name, "version": release.version})
    print(f"export   {shown(version)}: model {version.parent.name}, version {release.version}")
    print(f"serve    tritonserver --model-repository={shown(output)}, with TensorFlow and NumPy 1 in its Python")


def _export_search(release: "Release", output: Path) -> None:
    from anchorage.serving.search_export import export_search

    with progress():
        recall = export_search(release, output)
    answer({"folder": output, "recall": recall})
    print(f"export   {shown(output)}: images or vectors in, ids, labels and scores out; recall {recall:.4f}")
    print("load it in a program that imports `scann` first; stock TensorFlow Serving cannot load it")


def _export_vectors(options: argparse.Namespace) -> None:
    from anchorage.release import open_release

    if options.to == "pgvector" and not options.output:
        raise UsageError("E_STORE_URL", "Expected `--output postgresql://USER@HOST/DATABASE` for pgvector")
    release = open_release(find_release(options.release))
    gallery = open_gallery(release, options.store)
    from anchorage.serving.vector_export import export_vectors, gallery_rows

    rows = gallery_rows(gallery.live, f"{release.content} {gallery.store}")
    output = options.output or f"{release.name}-{release.version}-{options.to}"
    with progress():
        try:
            before = export_vectors(rows, _open_target(options.to, output, options.table), _print_rows)
        except Exception as error:  # LanceDB wraps the errors of a disk
            if options.to != "pgvector" and (fault := disk_fault(error, Path(output).absolute())):
                raise fault from error
            raise
    place = output.rpartition("@")[2].partition("?")[0] if options.to == "pgvector" else output  # without a password
    answer({"output": place, "rows": rows.total, "before": before, "left_out": gallery.left_out})
    print(f"export   {rows.total:,} items of release {release.version} to {place}", end="")
    print(f", {before:,} of them by an earlier call" if before else "")
    if gallery.left_out:
        print(f"left out {len(gallery.left_out)} items whose vectors another model made: {gallery.left_out[:5]}")


def _export_hub(options: argparse.Namespace) -> None:
    from anchorage.release import open_release
    from anchorage.serving.hub_export import push_release

    release = open_release(find_release(options.release))
    with progress():
        print(f"uploading release {release.version} in {release.folder}", flush=True)
        address = push_release(release, options.to, public=options.public)
    answer({"repository": address, "version": release.version})
    print(f"export   release {release.version} to {address}")
    print(f"to use   hf download {options.to} --local-dir FOLDER; anchorage search IMAGE --release FOLDER")


def _open_target(kind: str, output: str, table: str):
    if kind == "pgvector":
        from anchorage.serving.vector_export.pgvector import PgvectorTable

        return PgvectorTable(output, table)
    if kind == "lancedb":
        from anchorage.serving.vector_export.lance import LanceTable

        return LanceTable(Path(output), table)
    from anchorage.serving.vector_export.files import VectorFiles

    return VectorFiles(Path(output), kind)


def _print_rows(done: int, total: int) -> None:
    print(f"vectors  {done:,} of {total:,}", flush=True)
