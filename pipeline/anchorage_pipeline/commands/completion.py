"""`anchorage completion`: a script that completes commands, options and file names in a shell."""

import argparse

from anchorage_pipeline.console import answer

_FILES = {"FILE", "IMAGE", "IMAGES", "TABLE", "TABLE.parquet", "RELEASE"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the shell."""
    parser.add_argument("shell", choices=["bash", "zsh"], help='kind of shell: eval "$(anchorage completion bash)"')


def run(options: argparse.Namespace) -> None:
    """Print the script, made from the parser of the command line."""
    import shtab

    from anchorage_pipeline.cli import create_parser

    parser = create_parser()
    [verbs] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    verbs.help = None  # shtab leaves out what the help does not show
    for verb in verbs.choices.values():
        for action in verb._actions:
            if action.metavar in _FILES:
                action.complete = shtab.FILE
            elif action.metavar == "FOLDER":
                action.complete = shtab.DIRECTORY
    script = shtab.complete(parser, shell=options.shell)
    answer({"script": script})
    print(script)
