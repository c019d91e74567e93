"""The parts of the command line's parser that several commands share."""

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from anchorage.errors import UsageError

BEAM_COMMANDS = ("embed", "evaluate", "index build")  # pass options after -- to Beam


class Parser(argparse.ArgumentParser):
    """Suggests the closest known command or option for an unknown one."""

    def parse_known_args(self, args=None, namespace=None):
        """Reject unknown options in the subparser, which knows the options of its command."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            beam = " Put options for Beam after --." if self.prog.partition(" ")[2] in BEAM_COMMANDS else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{_nearest(unknown[0], known)}{beam}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, then exit with status 2."""
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += _nearest(choice[1], choice[2].replace("'", "").split(", "))
        super().error(message)


def _nearest(word: str, known: Iterable[str]) -> str:
    from anchorage.registry import nearest

    return nearest(word, known)


def add_console(verb: argparse.ArgumentParser, default: bool | str) -> None:
    """Add the kinds of output; `default` is `argparse.SUPPRESS` below a command that has them already."""
    help_json = "write the result as JSON, the progress to standard error"
    verb.add_argument("--json", action="store_true", default=default, help=help_json)
    help_quiet = "write the result and errors only, no progress"
    verb.add_argument("--quiet", action="store_true", default=default, help=help_quiet)


def add_experiment(verb: argparse.ArgumentParser) -> None:
    """Add the experiment file and the values that replace its own."""
    verb.add_argument("experiment", metavar="FILE", help="experiment file (TOML)")
    add_overrides(verb, "a value of the file, such as loss.params.margin=0.2")


def add_overrides(verb: argparse.ArgumentParser, what: str) -> None:
    """Add the values that replace those of a file; `what` says which."""
    text = f"replace {what}; may be repeated"
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_release(verb: argparse.ArgumentParser) -> None:
    """Add the release, which need not be named if there is only one."""
    verb.add_argument(
        "--release",
        metavar="FOLDER",
        help="folder of releases, or of one version in it, also at s3:// or gs:// (default: the only one in releases/)",
    )


def find_release(folder: str | None) -> str:
    """Return path or URI of the given folder, or else the only folder of releases below `releases/`.

    Raises:
        UsageError: E_RELEASE_MISSING, if there is no release; E_RELEASE_UNCLEAR, if there are several folders.
    """
    if folder:
        return folder
    folders = sorted(pointer.parent for pointer in Path("releases").glob("*/current"))
    if not folders:
        raise UsageError(
            "E_RELEASE_MISSING",
            "Expected a release below ./releases. Found none: publish one with `anchorage run`, "
            "or name a folder with --release",
        )
    if len(folders) > 1:
        names = ", ".join(map(str, folders))
        raise UsageError("E_RELEASE_UNCLEAR", f"Expected one folder of releases. Found {names}: choose with --release")
    return str(folders[0])


def positive(text: str) -> int:
    """Read a positive integer."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, received {text!r:.60}")
    return int(text)


def whole(text: str) -> int:
    """Read a non-negative integer."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"expected a non-negative integer, received {text!r:.60}")
    return int(text)
