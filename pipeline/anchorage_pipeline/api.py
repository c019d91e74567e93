"""The commands as Python functions, which return what the commands print.

    from anchorage_pipeline import api

    run = api.run("catalogue.toml", ["loss.params.margin=0.2"])  # as `anchorage run FILE --set ...`
    run.metrics, run.verdict, run.report
    searcher = api.open_release(run.release)
    searcher.search(["photo.jpg", pixels], k=5)

An experiment is the path of a file, or an `Experiment`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorage.errors import GateError
from anchorage.storage import is_remote, local_input
from anchorage_pipeline.config import Experiment, load_experiment

if TYPE_CHECKING:
    from anchorage.serving.searcher import Searcher

__all__ = ["Run", "evaluate", "open_release", "report", "run", "train", "tune"]


@dataclass(frozen=True)
class Run:
    """Outcome of a run.

    Args:
        metrics: metrics of the candidate on the test split, in [0, 1].
        verdict: state of the gate, such as `"FIRST"`, `"BETTER"` or `"HOLD"`.
        reasons: reasons of the verdict.
        report: the page of the report; if the artifacts lie in an object store, that of a copy in the run folder.
        release: folder of the release, or its URI in an object store; None if the gate rejected the candidate.
        nodes: state of each node, such as `"COMPLETE"` or `"CACHED"`.
        seconds: wall time of each node that ran, in seconds.
        refused: the error of the gate if it rejected the candidate, else None.
    """

    metrics: dict[str, float]
    verdict: str
    reasons: tuple[str, ...]
    report: Path
    release: Path | str | None
    nodes: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    refused: GateError | None = None

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.metrics.items())
        return f"<Run {self.verdict}: {metrics} (percent); release {self.release}, report {self.report}>"


def run(
    experiment: Experiment | str | PathLike,
    overrides: Sequence[str] = (),
    *,
    reset_metadata: bool = False,
    trigger: Mapping[str, Any] | None = None,
) -> Run:
    """Run the pipeline, as `anchorage run`.

    Args:
        experiment: the experiment, or the path of its file.
        overrides: values that replace those of the file, such as `"seed=2"`.
        reset_metadata: whether to start without the cache of earlier runs.
        trigger: why a scheduled run started, for the report and the manifest.

    Returns:
        The outcome; its `release` is None if the gate rejected the candidate.

    Raises:
        AnchorageError: as the command; not for a rejected candidate.
    """
    from anchorage_pipeline.inspection import check_listing
    from anchorage_pipeline.places import check_places, local_places
    from anchorage_pipeline.preflight import check_parts
    from anchorage_pipeline.run import run_experiment

    experiment = _experiment(experiment, overrides)
    check_places(experiment)
    check_parts(experiment)
    check_listing(experiment, local_places(experiment).rejects)
    summary = run_experiment(experiment, reset_metadata=reset_metadata, trigger=trigger)
    folder = _local_copy(summary.outputs["EvaluateRetrieval.report"], experiment.run_folder / "report")
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    release: Path | str | None = None
    if summary.refused is None:
        with local_input(summary.outputs["PublishRelease.release"]) as published:
            place = json.loads((published / "release.json").read_text(encoding="utf-8"))["path"]
        release = place if is_remote(place) else Path(place)
    return Run(
        metrics={name: metric["value"] for name, metric in document["metrics"].items()},
        verdict=document["verdict"]["state"],
        reasons=tuple(document["verdict"]["reasons"]),
        report=folder / "report.html",
        release=release,
        nodes=summary.states,
        seconds=summary.seconds,
        refused=summary.refused,
    )


def train(
    experiment: Experiment | str | PathLike, overrides: Sequence[str] = (), *, output: str | PathLike | None = None
) -> dict[str, Any]:
    """Train with plain Keras, as `anchorage train`.

    Args:
        experiment: the experiment, or the path of its file.
        overrides: values that replace those of the file.
        output: folder for `learner.keras`, `saved_model/` and the metrics; default `runs/<name>/train`.

    Returns:
        The content of `metrics.json`: `values` in [0, 1], those of the untrained baselines, and the evaluation set.
    """
    from anchorage_pipeline.plain import train_plainly
    from anchorage_pipeline.preflight import check_parts

    experiment = _experiment(experiment, overrides)
    check_parts(experiment)
    return train_plainly(experiment, Path(output) if output else experiment.run_folder / "train")


def tune(
    experiment: Experiment | str | PathLike, overrides: Sequence[str] = (), *, output: str | PathLike | None = None
) -> dict[str, Any] | None:
    """Search the ranges of an experiment, as `anchorage tune`.

    Args:
        experiment: the experiment, or the path of its file.
        overrides: values that replace those of the file.
        output: folder for `search.json`, `search.html` and the records of the trials; default `runs/<name>/tune`.

    Returns:
        The content of `search.json` and what the page shows beside it, such as `lines`, the best values as lines of an
        experiment file; None in a process that ran trials for a chief.
    """
    from anchorage_pipeline.plain_search import search_plainly
    from anchorage_pipeline.preflight import check_parts

    experiment = _experiment(experiment, overrides)
    check_parts(experiment)
    return search_plainly(experiment, Path(output) if output else experiment.run_folder / "tune")


def evaluate(
    table: str | PathLike, output: str | PathLike, metrics: Sequence[str] = ("recall@1", "map@r"), **options: Any
) -> dict[str, Any]:
    """Compute metrics of an embedding table of any size, as `anchorage evaluate`.

    Args:
        table: embeddings with labels: a Parquet file, or a folder of them.
        output: folder for the metrics and the neighbors.
        metrics: the metrics to compute.
        **options: further arguments of `anchorage_components.beam.evaluation.evaluate_at_scale`.

    Returns:
        The metrics in `values`, in [0, 1], and the numbers of queries and gallery items.
    """
    from anchorage_components.beam.evaluation import evaluate_at_scale

    return evaluate_at_scale(Path(table), Path(output), metrics=metrics, **options)


def open_release(path: str | PathLike) -> "Searcher":
    """Open a release, or the current one in a folder of releases, to search it."""
    from anchorage.serving.searcher import Searcher

    return Searcher(path)


def report(path: str | PathLike) -> dict[str, Any]:
    """The report of a release, or of the current one in a folder of releases: the content of its `report.json`."""
    from anchorage.release import open_release as verify

    return json.loads((verify(fspath(path)).path / "report/report.json").read_text(encoding="utf-8"))


def _local_copy(uri: str, folder: Path) -> Path:
    """A folder with the content of an artifact: itself, or a copy in another folder, whose content is replaced."""
    if not is_remote(uri):
        return Path(uri)
    shutil.rmtree(folder, ignore_errors=True)
    with local_input(uri) as copy:
        return Path(shutil.copytree(copy, folder))


def _experiment(experiment: Experiment | str | PathLike, overrides: Sequence[str]) -> Experiment:
    if not isinstance(experiment, Experiment):
        return load_experiment(Path(experiment), overrides)
    if overrides:
        raise ValueError(f"`overrides` change a file. Received: an Experiment and {list(overrides)}")
    return experiment
