"""`anchorage check`: what is wrong with an experiment file or its data, and what a run will make of them."""

import argparse
from dataclasses import asdict

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiment."""
    add_experiment(parser)


def run(options: argparse.Namespace) -> None:
    """Validate the file and its data, and print what they contain."""
    from anchorage.tuning.ranges import grid_size
    from anchorage_pipeline.preflight import check_file
    from anchorage_pipeline.tuning import describe_search
    from anchorage_pipeline.values import Named, search_space

    with progress():
        experiment = check_file(options.experiment, options.set)
        from anchorage_pipeline.inspection import inspect_data

        lines = inspect_data(experiment)
    loss = experiment.loss
    named = loss.name if isinstance(loss, Named) else " or ".join(each.name for each in loss.choices) if loss else ""
    summary = "no training" if experiment.untrained else f"loss {named or 'chosen by the recipe'}"
    data = dict(line.split(maxsplit=1) for line in lines)
    space = search_space(experiment)
    answer(
        {
            "experiment": experiment.model_dump(mode="json"),
            "ranges": [asdict(item) for item in space],
            "grid_points": grid_size(space) if space else 0,
            "data": data,
        }
    )
    print(f"{options.experiment}: valid ({summary}, encoder {experiment.encoder.name})")
    print("\n".join([*lines, *describe_search(experiment)]))
