"""The commands of `anchorage`; each imports only what it needs."""

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorage.errors import ResourceError, UsageError
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.console import answer, progress
from anchorage_pipeline.options import find_release
from anchorage_pipeline.startup import load_tensorflow

if TYPE_CHECKING:
    from anchorage.catalogue import LossDescription
    from anchorage.release import Release


def build_data(name: str, output: Path) -> None:
    """Build one of the sample data sets."""
    with progress():
        summary = _build(name, output)
    print(summary)
    answer({"folder": output})


def _build(name: str, output: Path) -> str:
    if name == "shapes":
        from anchorage_pipeline.datasets.shapes import draw_shapes

        return f"{draw_shapes(output)} images in {output}"
    if missing := [module for module in ("fontTools", "pip", "resvg_py") if find_spec(module) is None]:
        raise ResourceError(
            "E_EXTRA_MISSING",
            f"Expected the packages of the extra 'icons'. Missing: {', '.join(missing)}. "
            "Install them: `uv sync --extra cpu --extra icons`",
        )
    if name == "icons":
        from anchorage_pipeline.datasets.icons import build_icons

        return str(build_icons(output))
    if name == "glyphs":
        from anchorage_pipeline.datasets.glyphs import build_glyphs

        return str(build_glyphs(output))
    from anchorage_pipeline.datasets.places import build_places

    return str(build_places(output))


def show_losses(name: str | None) -> None:
    """Print all losses, or the full documentation of one."""
    import inspect
    import textwrap
    from shutil import get_terminal_size

    from anchorage.catalogue import describe_loss, describe_losses

    def parameters(loss) -> list[str]:
        required = inspect.Parameter.empty
        return [key if value is required else f"{key}={value!r}" for key, value in loss.parameters.items()]

    if name is not None:
        loss = describe_loss(name)
        answer(_loss_document(loss))
        text = loss.text or "This loss has no docstring."
        aliases = f"Also known as: {loss.also_known_as()}" if loss.aliases else ""
        print("\n".join([f"{name}({', '.join(parameters(loss))})", *filter(None, [loss.paper, aliases]), "", text]))
        return
    losses = describe_losses()
    answer([_loss_document(loss) for loss in losses])
    wrapper = textwrap.TextWrapper(
        width=get_terminal_size().columns,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for loss in losses:
        # Keep a parameter and its default on one line.
        signature = ", ".join(parameter.replace(" ", "\N{NO-BREAK SPACE}") for parameter in parameters(loss))
        alias_lines = [wrapper.fill(f"also known as: {loss.also_known_as()}")] if loss.aliases else []
        signature = wrapper.fill(signature).replace("\N{NO-BREAK SPACE}", " ")
        print(loss.name, *alias_lines, wrapper.fill(loss.paper), signature, sep="\n")


def show_encoders(pattern: str) -> None:
    """Print the encoders whose name fits the pattern.

    Raises:
        UsageError: E_NAME_UNKNOWN if there is none.
    """
    from anchorage.registry import nearest
    from anchorage_pipeline.encoders import list_encoders

    found, more = list_encoders(pattern), ""
    if not list_encoders("hub:"):
        more = " KerasHub has more: `uv sync --extra cpu --extra hub`."
    if not found:
        known = [encoder.name.removeprefix("hub:") for encoder in list_encoders()]
        raise UsageError("E_NAME_UNKNOWN", f"No encoder is called {pattern!r}.{nearest(pattern, known)}{more}")
    rows = [(e.name, e.size, f"{e.parameters / 1e6:,.1f} M" if e.parameters else "", e.license, e.text) for e in found]
    rows.insert(0, ("name", "image size", "parameters", "license", ""))
    answer([encoder._asdict() for encoder in found])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, size, parameters, license_, text in rows:
        print(f"{name:<{widths[0]}}  {size:<{widths[1]}}  {parameters:>{widths[2]}}  {license_:<{widths[3]}}  {text}")
    if more:
        print(more.strip())


def fetch_encoder(name: str, folder: Path) -> None:
    """Download a preset of KerasHub into a new folder, and say its license and how to use it.

    Raises:
        UsageError: E_OUTPUT_EXISTS.
        ResourceError: E_ENCODER_WEIGHTS, E_EXTRA_MISSING.
    """
    from anchorage_pipeline.encoders import describe_preset

    if folder.exists():
        raise UsageError("E_OUTPUT_EXISTS", f"Expected a new folder. {folder} is there already")
    load_tensorflow()
    from anchorage.encoders.hub import fetch_preset
    from anchorage_pipeline.config import Encoder

    fetch_preset(name, folder)
    told = describe_preset(Encoder.model_validate({"name": f"hub:{folder.name}", "weights": str(folder)}))
    answer({"folder": folder, "license": told["license"]})
    print(f"fetched  {shown(folder)}, license of the weights: {told['license']}")
    print(f'use      [encoder] name = "hub:{folder.name}", weights = "{shown(folder)}"')


def _loss_document(loss: "LossDescription") -> dict[str, Any]:
    import inspect

    required = inspect.Parameter.empty
    defaults = {key: value for key, value in loss.parameters.items() if value is not required}
    needed = [key for key in loss.parameters if key not in defaults]
    return {**loss._asdict(), "parameters": defaults, "required": needed}


def check(path: str, overrides: Sequence[str]) -> None:
    """Validate an experiment file and its data, and print what a run will make of them."""
    from anchorage_pipeline.preflight import check_file
    from anchorage_pipeline.values import search_space

    with progress():
        experiment = check_file(path, overrides)
        from anchorage_pipeline.inspection import inspect_data

        lines = inspect_data(experiment)
    ranges = search_space(experiment)
    search = f", {experiment.tuning.trials} trials over {', '.join(ranges)}" if ranges else ""
    loss = experiment.loss.name if experiment.loss else "chosen by the recipe"
    loss = "no training" if experiment.untrained else f"loss {loss}"
    data = dict(line.split(maxsplit=1) for line in lines)
    answer({"experiment": experiment.model_dump(mode="json"), "ranges": ranges, "data": data})
    print(f"{path}: valid ({loss}, encoder {experiment.encoder.name}{search})")
    print("\n".join(lines))


def train(experiment: Experiment, output: Path | None) -> None:
    """Train with plain Keras, then print the metrics on the test split."""
    from anchorage_pipeline.plain import train_plainly
    from anchorage_pipeline.preflight import check_parts

    output = output or experiment.run_folder / "train"
    with progress():
        check_parts(experiment)
        metrics = train_plainly(experiment, output)
    answer({**metrics, "model": output / "learner.keras", "saved_model": output / "saved_model"})
    print(f"result   {_in_percent(metrics['values'])}  (percent)")
    for name, values in metrics["untrained"].items():
        print(f"baseline {_in_percent(values)}  {name}")
    print(
        f"         {experiment.name}, split {metrics['split']}: {metrics['queries']} queries of "
        f"{metrics['classes']} classes, seed {metrics['seed']}, epoch {metrics['best_epoch']}"
    )
    print(f"model    {shown(output / 'learner.keras')}, for serving: {shown(output / 'saved_model')}")
    if experiment.training.loggers:
        names = ", ".join(logger.name for logger in experiment.training.loggers)
        print(f"logs     {shown(output / 'logs')} ({names})")


def compare(path: Path, side_by_side: int, only: Sequence[str]) -> None:
    """Run the missing runs of a comparison file, then print the table and the paths of table and figures."""
    from anchorage_pipeline.comparison import compare as run_comparison

    with progress():
        outcome = run_comparison(path, side_by_side, only)
    folder = outcome.comparison.folder
    rows = {row.entry.name: {name: value._asdict() for name, value in row.values.items()} for row in outcome.rows}
    answer({"entries": rows, "table": folder / "table.md", "pictures": outcome.pictures})
    print((folder / "table.md").read_text(encoding="utf-8").partition("\n## ")[0])
    print(f"table    {shown(folder / 'table.md')}")
    for picture in outcome.pictures:
        print(f"picture  {shown(picture)}")


def spread(experiment: Experiment, seeds: Sequence[int], machine: str | None) -> None:
    """Measure the spread of the metrics over seeds, then print it and the path of its file."""
    from anchorage_pipeline.spread import measure_spread
    from anchorage_pipeline.spread.conditions import spread_file
    from anchorage_pipeline.spread.record import read_spread

    with progress():
        table = measure_spread(experiment, seeds, machine)
    file = spread_file(experiment)
    answer({**read_spread(file).model_dump(mode="json"), "file": file})
    print(f"\n{table}\n")
    print(f"spread   {shown(file)}: `anchorage run` includes it in the report")


def run(experiment: Experiment, *, reset_metadata: bool = False) -> None:
    """Run the pipeline, then print the state of each node, the result and the paths of report and release."""
    from anchorage.release import current_version
    from anchorage.release.manifest import TEXT
    from anchorage_pipeline.graph import local_places
    from anchorage_pipeline.inspection import check_listing
    from anchorage_pipeline.preflight import check_parts
    from anchorage_pipeline.run import run_experiment

    with progress():
        check_parts(experiment)
        check_listing(experiment, local_places(experiment).rejects)
        print(f"running {experiment.name}; log file: {shown(experiment.run_folder / 'run.log')}")
        summary = run_experiment(experiment, reset_metadata=reset_metadata)
    folder = summary.outputs["EvaluateRetrieval.report"]
    nodes = {node: {"state": state, "seconds": summary.seconds.get(node)} for node, state in summary.states.items()}
    document = {"nodes": nodes, **_result_document(folder)}
    if summary.refused is not None:
        answer({**document, "release": None})
        print_recipe(folder)
        print_result(folder)
        raise summary.refused
    releases = experiment.release_folder
    published = json.loads((summary.outputs["PublishRelease.release"] / "release.json").read_text(encoding="utf-8"))
    current, version = current_version(releases), published["version"]
    answer({**document, "release": {"path": published["path"], "version": version, "current": current == version}})
    states = summary.states.items()
    rows = [f"  {node:<24} {state.lower():<9} {summary.seconds.get(node, 0.0):7.1f} s" for node, state in states]
    print("", *rows, "", sep="\n")
    print_recipe(folder)
    print_result(folder)
    print(f"release  {shown(Path(published['path']))}")
    if current != version:
        print(
            f"         release {current} is the current one, not this one; to switch: "
            f"`anchorage releases rollback --release {shown(releases)} --to {version}`"
        )
    command = shown(Path(sys.executable).absolute().parent / "anchorage")
    print(f"search   {command} search IMAGE --release {shown(releases)}")
    if (Path(published["path"]) / TEXT).is_dir():
        print(f'         {command} search --text "DESCRIPTION" --release {shown(releases)}')


def _result_document(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    metrics = {name: metric["value"] for name, metric in report["metrics"].items()}
    return {"metrics": metrics, "verdict": report["verdict"], "report": folder / "report.html"}


def print_recipe(folder: Path) -> None:
    """Print the settings that the recipe chose, and why training stopped early, from a report."""
    from anchorage.training.recipes import Choice, format_choices

    training = json.loads((folder / "report.json").read_text(encoding="utf-8")).get("training", {})
    if text := format_choices([Choice(**choice) for choice in training.get("recipe", [])]):
        print(text)
    if training.get("stop_reason"):
        print(f"training {training['stop_reason']}")


def print_result(folder: Path) -> None:
    """Print the metrics of a report, the data they were measured on, the verdict, and the path of the report."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    counts, verdict = report["counts"], report["verdict"]
    values = {name: report["metrics"][name]["value"] for name in report["headline"]}
    print(f"result   {_in_percent(values)}  (percent)" if values else "result   nothing was measured")
    for baseline in report.get("untrained", []):
        values = {name: baseline["metrics"][name]["baseline"] for name in report["headline"]}
        print(f"baseline {_in_percent(values)}  {baseline['name']}")
    print(
        f"         {report['experiment']}, split {report['split']}: {counts['queries']} queries of "
        f"{counts['classes']} classes, gallery {counts['gallery']}, seed {report['reproduce']['seed']}"
    )
    if "index" in report:
        print(f"index    {report['index']['rows']:,} searchable images of {report['index']['classes']:,} classes")
    print(f"verdict  {verdict['state']}: {' '.join(verdict['reasons'])}")
    print(f"report   {shown(folder / 'report.html')}")


def _in_percent(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {100 * value:.1f}" for name, value in values.items())


def compare_releases(older: "Release", newer: "Release", folder: Path) -> Path:
    """Write the report of a release with an earlier one as its baseline, and return the path of the page."""
    from anchorage.judging.two_releases import compare_releases as judge
    from anchorage.reporting.pictures import read_picture
    from anchorage.reporting.report import write_report

    report = judge(older, newer)
    images = Path(newer.facts.get("data_root", "."))
    write_report(report, folder, lambda ids: {id_: read_picture(images / id_) for id_ in ids})
    verdict = report["verdict"]
    answer({"report": folder / "report.html", "verdict": verdict})
    print(f"verdict  {verdict['state']}: {' '.join(verdict['reasons'])}")
    return folder / "report.html"


def report(which: Sequence[str], named: str | None, output: str | None) -> Path:
    """Print the page of a release's report, or of a new one that compares two releases.

    Args:
        which: versions or folders of releases, two at most; none for the current release.
        named: the folder of releases; None for the only one.
        output: folder of the comparison.

    Raises:
        UsageError: E_RELEASE_UNCLEAR for more than two releases.
    """
    from anchorage.release import open_release

    if len(which) > 2:
        raise UsageError("E_RELEASE_UNCLEAR", f"Expected at most two releases. Received: {' '.join(which)}")
    opened = [open_release(find_release(named), int(one)) if one.isdecimal() else open_release(one) for one in which]
    if len(opened) == 2:
        older, newer = opened
        page = compare_releases(older, newer, Path(output or f"report-{older.version}-{newer.version}").absolute())
    else:
        page = (opened or [open_release(find_release(named))])[0].path / "report" / "report.html"
        answer({"report": page})
    print(page)
    return page


def releases(folder: Path, *, rollback: bool = False, to: int | None = None) -> None:
    """List the releases in a folder, or make an earlier one the current one.

    Args:
        folder: the folder of releases.
        rollback: whether to go back instead of listing.
        to: version to go back to; None for the one before.
    """
    from anchorage.release import current_version, list_releases, open_release, roll_back

    if rollback:
        current = roll_back(folder, to)
        answer({"folder": folder, "current": current})
        print(f"current release: {current} (in {folder})")
        return
    print(f"releases in {folder}")
    listed = list_releases(folder)
    answer({"folder": folder, "releases": [release._asdict() for release in listed]})
    for release in listed:
        mark = "->" if release.current else "  "
        metrics = release.facts.get("metrics", {})
        details = release.fault or "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"{mark} {release.version:>4}  {release.created}  {details}")
    if current_version(folder) not in (None, *(release.version for release in listed)):
        open_release(folder)  # raises an error that names the missing version


def embed(images: Sequence[str], releases: Path, output: Path, beam_arguments: Sequence[str]) -> None:
    """Embed images into a Parquet table with the model of a release; rejected images are listed beside it."""
    from anchorage.release import open_release

    release = open_release(releases)
    from anchorage_components.beam.embedding import embed_files

    with progress():
        counts = embed_files(images, release.path, output, beam_arguments)
    answer({"table": output, "release": release.path, "embedded": counts.embedded, "rejected": counts.rejected})
    print(f"{counts.embedded} images embedded into {output} with release {release.version} of {releases}")
    if counts.rejected:
        print(f"{counts.rejected} rejected, listed in {output}.rejects.jsonl")


def evaluate(table: Path, output: Path, beam_arguments: Sequence[str], *, seed: int, **options: Any) -> None:
    """Compute retrieval metrics of an embedding table with Beam; `options` are those of `evaluate_at_scale`."""
    from anchorage_components.beam.evaluation import NEIGHBORS, evaluate_at_scale

    with progress():
        result = evaluate_at_scale(table, output, seed=seed, beam_args=beam_arguments, **options)
    answer({**result, "neighbors": output / NEIGHBORS})
    print(f"result   {_in_percent(result['values'])}  (percent)")
    print(
        f"         {table}: {result['queries']:,} of {result['all_queries']:,} queries, gallery {result['gallery']:,}, "
        f"{result['skipped']:,} skipped without a relevant item, seed {seed}"
    )
    print(f"nearest  {shown(output / NEIGHBORS)}")


def shown(path: Path) -> Path:
    """The path relative to the current folder, if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
