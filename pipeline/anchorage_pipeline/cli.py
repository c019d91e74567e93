"""The `anchorage` command: one small function a verb; heavy libraries are loaded inside it."""

import argparse
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from anchorage.disk import disk_fault
from anchorage.errors import AnchorageError, ResourceError, UsageError
from anchorage.user_code import find_fault
from anchorage_pipeline.progress import silence_tensorflow

_DESCRIPTION = "Turns labelled images into a search engine that is known to be good, and keeps it good."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 done, 2 wrong use, 3 bad data, 4 resource trouble or interruption
        (the same command goes on), 5 a gate said no, 1 our own bug.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    beam_arguments: list[str] = []
    if words[:1] in (["embed"], ["evaluate"]) and "--" in words:
        place = words.index("--")
        words, beam_arguments = words[:place], words[place + 1 :]
    options = create_parser().parse_args(words, argparse.Namespace(beam_arguments=beam_arguments))
    sys.path.append(str(Path.cwd()))  # where a user's own loss lies: "my_loss:MyLoss"
    silence_tensorflow()
    signal.signal(signal.SIGTERM, _stop)
    try:
        options.run(options)
    except AnchorageError as error:
        print(f"anchorage: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("anchorage: E_INTERRUPTED: stopped by the keyboard; the same command goes on", file=sys.stderr)
        return ResourceError.exit_status
    except BrokenPipeError:
        return 0
    except (Exception, SystemExit) as error:
        if fault := disk_fault(error, Path.cwd()) or find_fault(error):
            print(f"anchorage: {fault}", file=sys.stderr)
            return fault.exit_status
        if isinstance(error, SystemExit):
            raise
        # Whatever is left is our own bug: say so, with what is needed to mend it.
        traceback.print_exc()
        print("anchorage: E_BUG: this should not happen; please report it with the lines above", file=sys.stderr)
        return 1
    return 0


def _stop(signum, frame):
    raise ResourceError("E_INTERRUPTED", "stopped by SIGTERM; run the same command again to go on")


class _Parser(argparse.ArgumentParser):
    """Says which word may have been meant."""

    def parse_known_args(self, args=None, namespace=None):
        """Refuse unknown options here, in the parser of the verb, which knows those that there are."""
        options, others = super().parse_known_args(args, namespace)
        if others:
            known = [option for action in self._actions for option in action.option_strings]
            beam = " Options of Beam come after --." if self.get_default("run") in (_embed, _evaluate) else ""
            self.error(f"unrecognized arguments: {' '.join(others)}.{_nearest(others[0], known)}{beam}")
        return options, others

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += _nearest(choice[1], choice[2].replace("'", "").split(", "))
        super().error(message)


def _version() -> str:
    try:
        return metadata.version("anchorage")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "(not installed)"


def _nearest(word: str, known: Iterable[str]) -> str:
    from anchorage.registry import nearest

    return nearest(word, known)


def create_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = _Parser(prog="anchorage", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    verb = _add(verbs, "data", _data, "build a data set that needs nothing but a package index")
    sets = "icons; characters in many fonts; places on pictures of the Earth; or, in a second, simple shapes"
    verb.add_argument("set", choices=["icons", "glyphs", "places", "shapes"], help=sets)
    verb.add_argument("--output", metavar="FOLDER", help="where to (default: data/<set>)")

    verb = _add(verbs, "check", _check, "check an experiment file and its data, without running anything")
    verb.add_argument("experiment", metavar="FILE")

    verb = _add(verbs, "losses", _losses, "list the losses, or tell all about one")
    verb.add_argument("name", nargs="?", metavar="NAME")

    verb = _add(verbs, "train", _train, "train with plain Keras: no pipeline, no release")
    verb.add_argument("experiment", metavar="FILE")
    verb.add_argument("--output", metavar="FOLDER", help="where the model goes (default: runs/<name>/train)")

    verb = _add(verbs, "compare", _compare, "measure settings of one experiment against each other; goes on if stopped")
    verb.add_argument("comparison", metavar="FILE")
    verb.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs side by side (default: 1)")
    verb.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only these entries, and what they are against"
    )

    verb = _add(
        verbs, "spread", _spread, "train with several seeds and tell the spread of the metrics; goes on if stopped"
    )
    verb.add_argument("experiment", metavar="FILE")
    verb.add_argument(
        "--seeds", nargs="+", type=_whole, default=[1, 2, 3, 4, 5], metavar="SEED", help="(default: 1 2 3 4 5)"
    )
    verb.add_argument("--machine", metavar="NAME", help="what to call this machine (default: its host name)")

    verb = _add(verbs, "run", _run, "run the whole pipeline: images in, a judged release out")
    verb.add_argument("experiment", metavar="FILE")
    verb.add_argument(
        "--reset-metadata",
        action="store_true",
        help="set the record of earlier runs aside and start a new one: nothing comes from the cache",
    )

    verb = _add(verbs, "search", _search, "find the gallery images most like the given ones")
    verb.add_argument("images", nargs="+", metavar="IMAGE")
    _add_release(verb)
    verb.add_argument("--neighbors", type=_positive, default=10, metavar="K", help="answers per image (default: 10)")
    verb.add_argument("--picture", default="search.png", metavar="FILE", help="sheet of answers (default: %(default)s)")

    verb = _add(verbs, "embed", _embed, "embed images into a Parquet table; options after -- go to Beam")
    verb.add_argument("images", nargs="+", metavar="IMAGES", help="images, or folders of them")
    _add_release(verb)
    verb.add_argument("--output", required=True, metavar="TABLE.parquet")

    verb = _add(verbs, "evaluate", _evaluate, "measure retrieval in a table of any size; options after -- go to Beam")
    verb.add_argument("table", metavar="TABLE", help="embeddings with labels: a Parquet file, or a folder of them")
    verb.add_argument("--queries", metavar="TABLE", help="(default: the rows of TABLE that may ask)")
    verb.add_argument(
        "--metrics", nargs="+", metavar="METRIC", default=["recall@1", "map@r"], help="(default: %(default)s)"
    )
    verb.add_argument(
        "--sample", type=_positive, default=10_000, metavar="N", help="most queries (default: %(default)s)"
    )
    verb.add_argument("--neighbors", type=_positive, default=10, metavar="K", help="written down a query (default: 10)")
    verb.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    verb.add_argument("--output", required=True, metavar="FOLDER", help="gets the metrics and the neighbours")

    verb = _add(verbs, "report", _report, "open the report of a release, or compare two releases")
    verb.add_argument(
        "which",
        nargs="*",
        metavar="RELEASE",
        help="a version or a release's folder (default: the current one); of two, the second is held against the first",
    )
    verb.add_argument("--output", metavar="FOLDER", help="where a comparison goes (default: report-<first>-<second>)")
    _add_release(verb)

    verb = _add(verbs, "releases", _releases, "list the releases, or roll back to an earlier one")
    verb.add_argument("action", nargs="?", choices=["list", "rollback"], default="list")
    verb.add_argument("--to", type=_positive, metavar="VERSION", help="with rollback (default: the one before)")
    _add_release(verb)
    return parser


def _add(verbs, name: str, run, purpose: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".", allow_abbrev=False)
    verb.set_defaults(run=run)
    return verb


def _add_release(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--release",
        metavar="FOLDER",
        help="a folder of releases, or one version in it (default: the only one below releases/)",
    )


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, received {text!r:.60}")
    return int(text)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, received {text!r:.60}")
    return int(text)


def _data(options) -> None:
    from anchorage_pipeline.commands import build_data

    build_data(options.set, Path(options.output or Path("data") / options.set))


def _check(options) -> None:
    from anchorage_pipeline.config import search_space
    from anchorage_pipeline.preflight import check_file

    experiment = check_file(options.experiment)
    from anchorage_pipeline.inspection import inspect_data

    lines = inspect_data(experiment)
    ranges = search_space(experiment)
    search = f", {experiment.tuning.trials} trials over {', '.join(ranges)}" if ranges else ""
    loss = experiment.loss.name if experiment.loss else "by recipe"
    print(f"{options.experiment}: in order (loss {loss}, encoder {experiment.encoder.name}{search})")
    print("\n".join(lines))


def _losses(options) -> None:
    from anchorage_pipeline.commands import show_losses

    show_losses(options.name)


def _train(options) -> None:
    from anchorage_pipeline.commands import train
    from anchorage_pipeline.config import load_experiment

    train(load_experiment(options.experiment), Path(options.output) if options.output else None)


def _compare(options) -> None:
    from anchorage_pipeline.commands import compare

    compare(Path(options.comparison), options.jobs, options.only)


def _spread(options) -> None:
    from anchorage_pipeline.commands import spread
    from anchorage_pipeline.config import load_experiment

    spread(load_experiment(options.experiment), options.seeds, options.machine)


def _run(options) -> None:
    from anchorage_pipeline.commands import run
    from anchorage_pipeline.config import load_experiment

    run(load_experiment(options.experiment), reset_metadata=options.reset_metadata)


def _search(options) -> None:
    from anchorage_pipeline.commands import search

    search(options.images, find_release(options.release), options.neighbors, Path(options.picture))


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

    from anchorage.release import open_release

    if len(options.which) > 2:
        raise UsageError("E_RELEASE_UNCLEAR", f"Expected at most two releases. Received: {' '.join(options.which)}")
    opened = [
        open_release(find_release(options.release), int(which)) if which.isdecimal() else open_release(which)
        for which in options.which
    ]
    if len(opened) == 2:
        from anchorage_pipeline.commands import compare_releases

        older, newer = opened
        folder = Path(options.output or f"report-{older.version}-{newer.version}")
        page = compare_releases(older, newer, folder.absolute())
    else:
        page = (opened or [open_release(find_release(options.release))])[0].path / "report" / "report.html"
    print(page)
    webbrowser.open(page.as_uri())


def _releases(options) -> None:
    from anchorage.release import current_version, list_releases, open_release, roll_back

    folder = find_release(options.release)
    if options.action == "rollback":
        print(f"current release: {roll_back(folder, options.to)} (in {folder})")
        return
    print(f"releases in {folder}")
    listed = list_releases(folder)
    for release in listed:
        mark = "->" if release.current else "  "
        metrics = release.facts.get("metrics", {})
        told = release.fault or "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"{mark} {release.version:>4}  {release.created}  {told}")
    if current_version(folder) not in (None, *(release.version for release in listed)):
        open_release(folder)  # says which one is missing


def find_release(named: str | None) -> Path:
    """The folder the user named, else the only folder of releases there is.

    Raises:
        UsageError: E_RELEASE_MISSING, if nothing was published; E_RELEASE_UNCLEAR, if there are several to choose from.
    """
    if named:
        return Path(named)
    found = sorted(pointer.parent for pointer in Path("releases").glob("*/current"))
    if not found:
        raise UsageError(
            "E_RELEASE_MISSING",
            "Expected a release below ./releases. Found none: publish one with `anchorage run`, "
            "or name a folder with --release",
        )
    if len(found) > 1:
        told = ", ".join(map(str, found))
        raise UsageError("E_RELEASE_UNCLEAR", f"Expected one folder of releases. Found {told}: choose with --release")
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
