"""`anchorage train`: a training without the pipeline."""

import argparse
from pathlib import Path

from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import add_experiment
from anchorage_pipeline.results import in_percent, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the experiment and the folder of the model."""
    add_experiment(parser)
    parser.add_argument("--output", metavar="FOLDER", help="folder for model and metrics (default: runs/<name>/train)")


def run(options: argparse.Namespace) -> None:
    """Train with plain Keras, then print the metrics on the test split."""
    from anchorage_pipeline import api
    from anchorage_pipeline.config import load_experiment

    experiment = load_experiment(options.experiment, options.set)
    output = Path(options.output) if options.output else experiment.run_folder / "train"
    with progress():
        metrics = api.train(experiment, output=output)
    answer({**metrics, "model": output / "learner.keras", "saved_model": output / "saved_model"})
    print(f"result   {in_percent(metrics['values'])}  (percent)")
    for name, values in metrics["untrained"].items():
        print(f"baseline {in_percent(values)}  {name}")
    print(
        f"         {experiment.name}, split {metrics['split']}: {metrics['queries']} queries of "
        f"{metrics['classes']} classes, seed {metrics['seed']}, epoch {metrics['best_epoch']}"
    )
    print(f"model    {shown(output / 'learner.keras')}, for serving: {shown(output / 'saved_model')}")
    if experiment.training.loggers:
        names = ", ".join(logger.name for logger in experiment.training.loggers)
        print(f"logs     {shown(output / 'logs')} ({names})")
