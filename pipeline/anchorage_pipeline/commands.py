"""What the verbs of the `anchorage` command do; each loads what it needs and no more."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorage.errors import DataError, UsageError
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.startup import load_tensorflow

if TYPE_CHECKING:
    from anchorage.release import Release

_LINES, _COLUMNS = 100, 20  # of the sheet that `search` draws: more would be gigabytes of pixels


def build_data(name: str, output: Path) -> None:
    """Build one of the data sets that need no download by hand."""
    if name == "shapes":
        from anchorage_pipeline.datasets.shapes import draw_shapes

        print(f"{draw_shapes(output)} images in {output}")
    elif name == "icons":
        from anchorage_pipeline.datasets.icons import build_icons

        print(build_icons(output))
    elif name == "glyphs":
        from anchorage_pipeline.datasets.glyphs import build_glyphs

        print(build_glyphs(output))
    else:
        from anchorage_pipeline.datasets.places import build_places

        print(build_places(output))


def show_losses(name: str | None) -> None:
    """Print all losses, or everything about one; no name, paper, parameter or default is ever cut short."""
    import inspect
    import textwrap
    from shutil import get_terminal_size

    from anchorage.catalogue import describe_loss, describe_losses

    def parameters(loss) -> list[str]:
        required = inspect.Parameter.empty
        return [key if value is required else f"{key}={value!r}" for key, value in loss.parameters.items()]

    if name is not None:
        loss = describe_loss(name)
        text = loss.text or "It has no docstring."
        also = f"Also known as: {loss.also_known_as()}" if loss.aliases else ""
        print("\n".join([f"{name}({', '.join(parameters(loss))})", *filter(None, [loss.paper, also]), "", text]))
        return
    fold = textwrap.TextWrapper(
        width=get_terminal_size().columns,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for loss in describe_losses():
        # A parameter and its default stay on one line.
        listed = ", ".join(parameter.replace(" ", "\N{NO-BREAK SPACE}") for parameter in parameters(loss))
        names = [fold.fill(f"also known as: {loss.also_known_as()}")] if loss.aliases else []
        print(loss.name, *names, fold.fill(loss.paper), fold.fill(listed).replace("\N{NO-BREAK SPACE}", " "), sep="\n")


def train(experiment: Experiment, output: Path | None) -> None:
    """Train with plain Keras, then say how good the space is on the test split."""
    from anchorage_pipeline.plain import train_plainly
    from anchorage_pipeline.preflight import check_parts

    check_parts(experiment)
    output = output or experiment.run_folder / "train"
    metrics = train_plainly(experiment, output)
    print(f"result   {_in_percent(metrics['values'])}  (percent)")
    for name, values in metrics["untrained"].items():
        print(f"baseline {_in_percent(values)}  {name}")
    print(
        f"         {experiment.name}, split {metrics['split']}: {metrics['queries']} queries of "
        f"{metrics['classes']} classes, seed {metrics['seed']}, epoch {metrics['best_epoch']}"
    )
    print(f"model    {shown(output / 'learner.keras')}, for serving: {shown(output / 'saved_model')}")


def compare(path: Path, side_by_side: int, only: Sequence[str]) -> None:
    """Run what a comparison file asks for and has no record yet, then say where table and pictures are."""
    from anchorage_pipeline.comparison import compare as run_comparison

    outcome = run_comparison(path, side_by_side, only)
    folder = outcome.comparison.folder
    print((folder / "table.md").read_text(encoding="utf-8").partition("\n## ")[0])
    print(f"table    {shown(folder / 'table.md')}")
    for picture in outcome.pictures:
        print(f"picture  {shown(picture)}")


def spread(experiment: Experiment, seeds: Sequence[int], machine: str | None) -> None:
    """Measure the spread over seeds, then show it and say where it is kept."""
    from anchorage_pipeline.spread import measure_spread
    from anchorage_pipeline.spread.conditions import spread_file

    print(f"\n{measure_spread(experiment, seeds, machine)}\n")
    print(f"spread   {shown(spread_file(experiment))}: `anchorage run` shows it in the report")


def run(experiment: Experiment, *, reset_metadata: bool = False) -> None:
    """Run the pipeline, then say what came of it and where to look."""
    from anchorage.release import current_version
    from anchorage_pipeline.graph import local_places
    from anchorage_pipeline.inspection import check_listing
    from anchorage_pipeline.preflight import check_parts
    from anchorage_pipeline.run import run_experiment

    check_parts(experiment)
    check_listing(experiment, local_places(experiment).rejects)
    print(f"running {experiment.name}; every step is logged in {shown(experiment.run_folder / 'run.log')}")
    summary = run_experiment(experiment, reset_metadata=reset_metadata)
    if summary.refused is not None:
        print_recipe(summary.outputs["EvaluateRetrieval.report"])
        print_result(summary.outputs["EvaluateRetrieval.report"])
        raise summary.refused
    print()
    for node, state in summary.states.items():
        print(f"  {node:<24} {state.lower():<9} {summary.seconds.get(node, 0.0):7.1f} s")
    print()
    print_recipe(summary.outputs["EvaluateRetrieval.report"])
    print_result(summary.outputs["EvaluateRetrieval.report"])
    releases = experiment.release_folder
    published = json.loads((summary.outputs["PublishRelease.release"] / "release.json").read_text(encoding="utf-8"))
    current, version = current_version(releases), published["version"]
    print(f"release  {shown(Path(published['path']))}")
    if current != version:
        print(
            f"         release {current} is in use, not this one: "
            f"`anchorage releases rollback --release {shown(releases)} --to {version}` changes that"
        )
    command = shown(Path(sys.executable).absolute().parent / "anchorage")
    print(f"search   {command} search IMAGE --release {shown(releases)}")


def print_recipe(folder: Path) -> None:
    """Print what a report says of settings that the experiment left to the recipe, and of a training that did harm."""
    from anchorage.training.recipes import Choice, format_choices

    training = json.loads((folder / "report.json").read_text(encoding="utf-8")).get("training", {})
    if told := format_choices([Choice(**choice) for choice in training.get("recipe", [])]):
        print(told)
    if training.get("stop_reason"):
        print(f"training {training['stop_reason']}")


def print_result(folder: Path) -> None:
    """Print the metrics of a report with what they were measured on, its verdict, and where it lies."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    counts, verdict = report["counts"], report["verdict"]
    print(f"result   {_in_percent({name: report['metrics'][name]['value'] for name in report['headline']})}  (percent)")
    for baseline in report.get("untrained", []):
        values = {name: baseline["metrics"][name]["baseline"] for name in report["headline"]}
        print(f"baseline {_in_percent(values)}  {baseline['name']}")
    print(
        f"         {report['experiment']}, split {report['split']}: {counts['queries']} queries of "
        f"{counts['classes']} classes, gallery {counts['gallery']}, seed {report['reproduce']['seed']}"
    )
    if "index" in report:
        print(f"index    {report['index']['rows']:,} images of {report['index']['classes']:,} classes to search in")
    print(f"verdict  {verdict['state']}: {' '.join(verdict['reasons'])}")
    print(f"report   {shown(folder / 'report.html')}")


def _in_percent(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {100 * value:.1f}" for name, value in values.items())


def compare_releases(older: "Release", newer: "Release", folder: Path) -> Path:
    """Write the report of a release with an earlier one as its baseline; gives the page."""
    from anchorage.judging.two_releases import compare_releases as judge
    from anchorage.reporting.pictures import read_picture
    from anchorage.reporting.report import write_report

    report = judge(older, newer)
    images = Path(newer.facts.get("data_root", "."))
    write_report(report, folder, lambda ids: {id_: read_picture(images / id_) for id_ in ids})
    verdict = report["verdict"]
    print(f"verdict  {verdict['state']}: {' '.join(verdict['reasons'])}")
    return folder / "report.html"


def search(images: Sequence[str], releases: Path, neighbors: int, picture: Path) -> None:
    """Print the nearest gallery images of each image, and draw them on one sheet.

    Raises:
        UsageError: E_IMAGE_MISSING, if an image is not there; E_PICTURE_PLACE, if the sheet cannot go where it should.
        DataError: E_NO_IMAGES, if no image could be read as one.
    """
    from anchorage.release import open_release

    if picture.is_dir() or not picture.parent.is_dir():
        raise UsageError(
            "E_PICTURE_PLACE",
            f"`--picture` must name a file in a folder that exists. Received: {picture}, "
            + ("which is a folder." if picture.is_dir() else f"but there is no folder {picture.parent}."),
        )
    release = open_release(releases)
    missing = [image for image in images if not Path(image).is_file()]
    if missing:
        raise UsageError("E_IMAGE_MISSING", f"Expected image files. Found nothing at {', '.join(missing)}")
    load_tensorflow()
    from anchorage.reporting.pictures import Answered, Neighbor, draw_sheet, read_picture
    from anchorage.serving.searcher import Searcher

    searcher = Searcher(release)
    gallery = Path(release.facts.get("data_root", "."))
    answers = searcher.search([Path(image).read_bytes() for image in images], neighbors)
    sheet: list[Answered] = []
    for image, answer in zip(images, answers, strict=True):
        print(image)
        if answer.fault:
            print(f"  {answer.fault.code}: {answer.fault.message}")
            continue
        found = list(zip(answer.ids, answer.labels, answer.scores, strict=True))
        likely = answer.likely or [False] * len(found)
        known = answer.probabilities or [None] * len(found)
        chances = ["     " if chance is None else f"{100 * chance:3.0f} %" for chance in known]
        if answer.left_out:
            print(f"  the query itself is in the gallery and left out: {', '.join(answer.left_out)}")
        if answer.unknown:
            print("  unknown: its class may be missing from the gallery; the percentages hold if it is there")
        for rank, ((name, label, score), sure, chance) in enumerate(zip(found, likely, chances, strict=True), 1):
            print(f"  {rank:>3}  {score:.4f}  {chance}  {'*' if sure else ' '} {label:<24} {name}")
        drawn = found[:_COLUMNS] if len(sheet) < _LINES else []
        neighbor = [Neighbor(label, score, None, read_picture(gallery / name)) for name, label, score in drawn]
        sheet.append(Answered(Path(image).name, "query", read_picture(image), neighbor))
    if not sheet:
        raise DataError("E_NO_IMAGES", "Expected at least one readable image. All of them are at fault, see above")
    if min(len(answer.ids) for answer in answers if not answer.fault) < neighbors:
        print(f"only {searcher.index.rows:,} images in the gallery: fewer answers than the {neighbors:,} asked for")
    if searcher.threshold is not None:
        print(f"* cosine at or above {searcher.threshold:.3f}, which few pairs of different validation classes reach")
    if searcher.probability:
        print("percent: the chance of a match, for an image of a class that the model was not trained on")
    for doubt in searcher.doubts:
        print(doubt)
    draw_sheet(sheet[:_LINES], picture)
    print(f"picture  {picture}   (release {release.version} of {releases})")
    if len(sheet) > _LINES or neighbors > _COLUMNS:
        print(f"         it shows at most {_LINES} images and {_COLUMNS} answers to each")


def embed(images: Sequence[str], releases: Path, output: Path, beam_arguments: Sequence[str]) -> None:
    """Embed images into a Parquet table with the model of a release; bad ones are named beside it."""
    from anchorage.release import open_release

    release = open_release(releases)
    from anchorage_components.beam.embedding import embed_files

    done = embed_files(images, release.path, output, beam_arguments)
    print(f"{done.embedded} images embedded into {output} with release {release.version} of {releases}")
    if done.rejected:
        print(f"{done.rejected} set aside, named in {output}.rejects.jsonl")


def evaluate(table: Path, output: Path, beam_arguments: Sequence[str], *, seed: int, **asked: Any) -> None:
    """Measure retrieval in an embedding table, shard by shard with Beam; `asked` as for `evaluate_at_scale`."""
    from anchorage_components.beam.evaluation import NEIGHBORS, evaluate_at_scale

    told = evaluate_at_scale(table, output, seed=seed, beam_args=beam_arguments, **asked)
    print(f"result   {'  '.join(f'{name} {100 * value:.1f}' for name, value in told['values'].items())}  (percent)")
    print(
        f"         {table}: {told['queries']:,} of {told['all_queries']:,} queries, gallery {told['gallery']:,}, "
        f"{told['skipped']:,} without a relevant item left out, seed {seed}"
    )
    print(f"nearest  {shown(output / NEIGHBORS)}")


def shown(path: Path) -> Path:
    """The path as seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
