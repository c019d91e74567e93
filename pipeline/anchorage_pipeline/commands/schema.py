"""`anchorage schema`: what an experiment file may contain, for editors and for people."""

import argparse
import json
from pathlib import Path

from anchorage_pipeline.console import answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kind of page and its file."""
    parser.add_argument("--markdown", action="store_true", help="print a page that lists every key instead")
    parser.add_argument("--output", metavar="FILE", help="file to write (default: standard output)")


def run(options: argparse.Namespace) -> None:
    """Print the JSON Schema, or the page that lists every key."""
    from anchorage_pipeline.schema import experiment_schema, reference_page

    schema = experiment_schema()
    text = reference_page() if options.markdown else json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    answer({"page": text} if options.markdown else schema)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")
    else:
        print(text, end="")
