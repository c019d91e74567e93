"""`anchorage completion`: a script that completes commands, options and file names in a shell."""

import argparse

SHELLS = ("bash", "zsh")
_FILES = {"FILE", "IMAGE", "IMAGES", "TABLE", "TABLE.parquet", "RELEASE"}


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`, made from the parser of the command line."""
    import shtab

    [verbs] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    verbs.help = None  # shtab leaves out what the help does not show
    for verb in verbs.choices.values():
        for action in verb._actions:
            if action.metavar in _FILES:
                action.complete = shtab.FILE
            elif action.metavar == "FOLDER":
                action.complete = shtab.DIRECTORY
    return shtab.complete(parser, shell=shell)
