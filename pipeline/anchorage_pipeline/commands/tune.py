"""`anchorage tune`: the hyperparameter search alone."""

import argparse
from pathlib import Path

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_experiment, positive
from anchorage_pipeline.results import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiment, its budget, and the folder of the search."""
    add_experiment(parser)
    parser.add_argument("--oracle", metavar="NAME", help="search algorithm (default: tuning.oracle of the file)")
    parser.add_argument("--trials", type=positive, metavar="N", help="largest number of trials")
    parser.add_argument("--minutes", type=positive, metavar="M", help="wall time after which no further trial starts")
    parser.add_argument("--output", metavar="FOLDER", help="folder of the search (default: runs/<name>/tune)")


def run(options: argparse.Namespace) -> None:
    """Search, then print the trials, the best one with the interval of its repeats, and the lines for the file."""
    from anchorage_pipeline import api
    from anchorage_pipeline.config import load_experiment
    from anchorage_pipeline.plain_search import PAGE, format_trials, format_winner

    given = {"oracle": options.oracle and f'"{options.oracle}"', "trials": options.trials, "minutes": options.minutes}
    overrides = [f"tuning.{key}={value}" for key, value in given.items() if value]
    experiment = load_experiment(options.experiment, [*options.set, *overrides])
    output = Path(options.output) if options.output else experiment.run_folder / "tune"
    with progress():
        found = api.tune(experiment, output=output)
    if found is None:
        answer({})
        print("worker   the search has ended; its chief has the result")
        return
    answer({**found, "page": output / PAGE, "record": output / "search.json"})
    print(format_trials(found))
    print(format_winner(found))
    print(f"page     {shown(output / PAGE)}, record {shown(output / 'search.json')}")
