"""`anchorage data`: one of the sample data sets."""

import argparse
import importlib
from pathlib import Path

from anchorage.extras import needs_extra
from anchorage_pipeline.console import answer, progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the data set and its folder."""
    sets = "icons, characters (glyphs), map views (places), or simple shapes, which take a second and no download"
    parser.add_argument("set", choices=["icons", "glyphs", "places", "shapes"], help=sets)
    parser.add_argument("--output", metavar="FOLDER", help="folder to create (default: data/<set>)")


def run(options: argparse.Namespace) -> None:
    """Build the data set.

    Raises:
        UsageError: E_EXTRA_MISSING.
    """
    output = Path(options.output or Path("data") / options.set)
    with progress():
        summary = _build(options.set, output)
    print(summary)
    answer({"folder": output})


def _build(name: str, output: Path) -> str:
    if name == "shapes":
        from anchorage_pipeline.datasets.shapes import draw_shapes

        return f"{draw_shapes(output)} images in {output}"
    with needs_extra("icons", f"The data set {name!r}"):
        for module in ("fontTools", "pip", "resvg_py"):
            importlib.import_module(module)
    if name == "icons":
        from anchorage_pipeline.datasets.icons import build_icons

        return str(build_icons(output))
    if name == "glyphs":
        from anchorage_pipeline.datasets.glyphs import build_glyphs

        return str(build_glyphs(output))
    from anchorage_pipeline.datasets.places import build_places

    return str(build_places(output))
