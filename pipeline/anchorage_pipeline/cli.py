"""The `anchorage` command line: the parser, and how each kind of error ends a command."""

import argparse
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module, metadata
from itertools import chain
from pathlib import Path

from anchorage.disk import disk_fault
from anchorage.errors import AnchorageError, ResourceError, causes
from anchorage.user_code import find_fault
from anchorage_pipeline.commands import COMMANDS
from anchorage_pipeline.console import console
from anchorage_pipeline.options import BEAM_COMMANDS, Parser, add_console
from anchorage_pipeline.progress import silence_tensorflow

_DESCRIPTION = "Train, evaluate and publish an image search engine from labelled images."
_EXIT_STATUSES = """\
exit status:
  0  success
  1  internal error
  2  invalid arguments or experiment file
  3  invalid or damaged data
  4  missing resources (disk, memory, lock) or interrupted; the same command resumes
  5  the gate rejected the candidate, or queries have drifted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status, as listed by `anchorage --help`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    beam_arguments: list[str] = []
    if "--" in arguments and {arguments[0], " ".join(arguments[:2])} & set(BEAM_COMMANDS):
        separator = arguments.index("--")
        arguments, beam_arguments = arguments[:separator], arguments[separator + 1 :]
    command = next((word for word in arguments if not word.startswith("-")), "")
    options = create_parser(command).parse_args(arguments, argparse.Namespace(beam_arguments=beam_arguments))
    sys.path.append(str(Path.cwd()))  # so that "my_loss:MyLoss" finds my_loss.py in the current folder
    silence_tensorflow()
    signal.signal(signal.SIGTERM, _stop)
    try:
        with console(as_json=options.json, quiet=options.quiet):
            options.run(options)
    except AnchorageError as error:
        print(f"anchorage: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("anchorage: E_INTERRUPTED: interrupted; run the same command again to resume", file=sys.stderr)
        return ResourceError.exit_status
    except BrokenPipeError:
        return 0
    except (Exception, SystemExit) as error:
        # Libraries wrap errors, such as that of an interruption, in their own.
        own = next((cause for cause in causes(error) if isinstance(cause, AnchorageError)), None)
        if fault := own or disk_fault(error, Path.cwd()) or find_fault(error):
            print(f"anchorage: {fault}", file=sys.stderr)
            return fault.exit_status
        if isinstance(error, SystemExit):
            raise
        # Any other exception is a bug in Anchorage: show what a bug report needs.
        traceback.print_exc()
        print("anchorage: E_BUG: internal error; please report it with the traceback above", file=sys.stderr)
        return 1
    return 0


def _stop(signum, frame):
    raise ResourceError("E_INTERRUPTED", "stopped by SIGTERM; run the same command again to resume")


def _version() -> str:
    try:
        return metadata.version("anchorage")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"


def create_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line, with one subparser per command.

    Args:
        command: the only command whose arguments are needed, so that the modules of the others are not imported; None
            for all. Any other text is no command, and needs no arguments.
    """
    parser = Parser(
        prog="anchorage",
        usage="anchorage [-h] [--version] COMMAND ...",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    verbs = parser.add_subparsers(prog="anchorage", metavar="COMMAND", required=True, help=argparse.SUPPRESS)

    for name, purpose in chain.from_iterable(group.items() for group in COMMANDS.values()):
        verb = verbs.add_parser(
            name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False
        )
        if command in (None, name):
            module = import_module(f"anchorage_pipeline.commands.{name}")
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)
        add_console(verb, default=False)
    parser.epilog = _list_commands(verbs.choices)
    return parser


def _list_commands(verbs: Mapping[str, argparse.ArgumentParser]) -> str:
    """The commands by group, with one line each, and the exit statuses."""
    lines = []
    for group, names in COMMANDS.items():
        lines += [f"{group}:", *(f"  {name:<12}{verbs[name].description}" for name in names), ""]
    return "\n".join([*lines, "`anchorage COMMAND --help` lists the options of a command.", "", _EXIT_STATUSES])


if __name__ == "__main__":
    sys.exit(main())
