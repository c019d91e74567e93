"""How commands print metrics, paths and the outcome of a run."""

import json
from collections.abc import Mapping
from pathlib import Path

from anchorage.storage import is_remote


def shown(path: str | Path) -> str | Path:
    """The path relative to the current folder, if it lies below it; a URI as it is."""
    if is_remote(path):
        return path
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def in_percent(values: Mapping[str, float]) -> str:
    """Metrics in one line, multiplied by 100."""
    return "  ".join(f"{name} {100 * value:.1f}" for name, value in values.items())


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
    print(f"result   {in_percent(values)}  (percent)" if values else "result   nothing was measured")
    for baseline in report.get("untrained", []):
        values = {name: baseline["metrics"][name]["baseline"] for name in report["headline"]}
        print(f"baseline {in_percent(values)}  {baseline['name']}")
    print(
        f"         {report['experiment']}, split {report['split']}: {counts['queries']} queries of "
        f"{counts['classes']} classes, gallery {counts['gallery']}, seed {report['reproduce']['seed']}"
    )
    if "index" in report:
        print(f"index    {report['index']['rows']:,} searchable items of {report['index']['classes']:,} classes")
    print(f"verdict  {verdict['state']}: {' '.join(verdict['reasons'])}")
    print(f"report   {shown(folder / 'report.html')}")
