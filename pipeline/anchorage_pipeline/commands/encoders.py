"""`anchorage encoders`: the encoders by name, and a download of one with its license."""

import argparse
from pathlib import Path

from anchorage.errors import UsageError
from anchorage_pipeline.console import answer
from anchorage_pipeline.results import shown
from anchorage_pipeline.startup import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the pattern, or the preset to download."""
    parser.add_argument(
        "words", nargs="*", metavar="PATTERN", help='part of a name, may have * and ?; or "fetch NAME" to download'
    )
    parser.add_argument("--output", metavar="FOLDER", help="folder of the downloaded preset (default: encoders/<name>)")


def run(options: argparse.Namespace) -> None:
    """List the encoders whose name fits the pattern, or download one.

    Raises:
        UsageError: E_ENCODER_NAME for words that are neither.
    """
    if options.words[:1] == ["fetch"]:
        if len(options.words) != 2:
            raise UsageError("E_ENCODER_NAME", f"Expected `encoders fetch NAME`. Received: {' '.join(options.words)}")
        name = options.words[1].removeprefix("hub:")
        _fetch(name, Path(options.output or Path("encoders") / name.rpartition("/")[2]))
    elif len(options.words) > 1 or options.output:
        raise UsageError("E_ENCODER_NAME", "Expected one pattern, or `encoders fetch NAME --output FOLDER`")
    else:
        _list("".join(options.words))


def _list(pattern: str) -> None:
    from anchorage.registry import nearest
    from anchorage_pipeline.encoders import list_encoders

    found, more = list_encoders(pattern), ""
    if not list_encoders("hub:"):
        more = " KerasHub has more: `uv sync --extra cpu --extra hub`."
    if not found:
        known = [encoder.name.removeprefix("hub:") for encoder in list_encoders()]
        raise UsageError("E_NAME_UNKNOWN", f"No encoder is called {pattern!r}.{nearest(pattern, known)}{more}")
    rows = [(e.name, e.size, f"{e.parameters / 1e6:,.1f} M" if e.parameters else "", e.license, e.text) for e in found]
    rows.insert(0, ("name", "image size", "parameters", "license", ""))
    answer([encoder._asdict() for encoder in found])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, size, parameters, license_, text in rows:
        print(f"{name:<{widths[0]}}  {size:<{widths[1]}}  {parameters:>{widths[2]}}  {license_:<{widths[3]}}  {text}")
    if more:
        print(more.strip())


def _fetch(name: str, folder: Path) -> None:
    from anchorage_pipeline.encoders import describe_preset

    if folder.exists():
        raise UsageError("E_OUTPUT_EXISTS", f"Expected a new folder. {folder} is there already")
    load_tensorflow()
    from anchorage.encoders.hub import fetch_preset
    from anchorage_pipeline.config import Encoder

    fetch_preset(name, folder)
    preset = describe_preset(Encoder.model_validate({"name": f"hub:{folder.name}", "weights": str(folder)}))
    answer({"folder": folder, "license": preset["license"]})
    print(f"fetched  {shown(folder)}, license of the weights: {preset['license']}")
    print(f'use      [encoder] name = "hub:{folder.name}", weights = "{shown(folder)}"')
