"""`anchorage spread`: how much the metrics of an experiment vary from seed to seed."""

import argparse

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_experiment, whole
from anchorage_pipeline.results import shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiment and the seeds."""
    add_experiment(parser)
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=whole,
        default=[1, 2, 3, 4, 5],
        metavar="SEED",
        help="training seeds, one training each (default: 1 2 3 4 5)",
    )
    parser.add_argument("--machine", metavar="NAME", help="name to record for this machine (default: its host name)")


def run(options: argparse.Namespace) -> None:
    """Measure the spread of the metrics over seeds, then print it and the path of its file."""
    from anchorage_pipeline.config import load_experiment
    from anchorage_pipeline.spread import measure_spread
    from anchorage_pipeline.spread.conditions import spread_file
    from anchorage_pipeline.spread.record import read_spread

    experiment = load_experiment(options.experiment, options.set)
    with progress():
        table = measure_spread(experiment, options.seeds, options.machine)
    file = spread_file(experiment)
    answer({**read_spread(file).model_dump(mode="json"), "file": file})
    print(f"\n{table}\n")
    print(f"spread   {shown(file)}: `anchorage run` includes it in the report")
