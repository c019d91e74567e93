"""`anchorage check`: what is wrong with an experiment file or its data, and what a run will make of them."""

import argparse

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiment."""
    add_experiment(parser)


def run(options: argparse.Namespace) -> None:
    """Validate the file and its data, and print what they contain."""
    from anchorage_pipeline.preflight import check_file
    from anchorage_pipeline.values import search_space

    with progress():
        experiment = check_file(options.experiment, options.set)
        from anchorage_pipeline.inspection import inspect_data

        lines = inspect_data(experiment)
    ranges = search_space(experiment)
    search = f", {experiment.tuning.trials} trials over {', '.join(ranges)}" if ranges else ""
    loss = experiment.loss.name if experiment.loss else "chosen by the recipe"
    loss = "no training" if experiment.untrained else f"loss {loss}"
    data = dict(line.split(maxsplit=1) for line in lines)
    answer({"experiment": experiment.model_dump(mode="json"), "ranges": ranges, "data": data})
    print(f"{options.experiment}: valid ({loss}, encoder {experiment.encoder.name}{search})")
    print("\n".join(lines))
