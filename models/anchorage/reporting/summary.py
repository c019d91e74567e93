"""A one-page Markdown summary of the report."""

from collections.abc import Mapping
from typing import Any

from anchorage.judging.gate import metric_name, points


def summarize(report: Mapping[str, Any]) -> str:
    """Summarize a report: verdict, reasons, metrics with intervals, slices with losses, worst classes, known limits."""
    counts, verdict = report["counts"], report["verdict"]
    lines = [f"# {verdict['state']}: {report['experiment']}", "", *(f"- {reason}" for reason in verdict["reasons"]), ""]
    lines += [
        f"Split {report['split']}: {counts['queries']:,} queries of {counts['classes']:,} classes against "
        f"{counts['gallery']:,} gallery images, {counts['distance']}; {report['created'][:10]}.",
        *([f"The index to be released has {report['index']['rows']:,} images."] if "index" in report else []),
        "",
    ]
    against = report["baseline"]["name"]
    untrained = report.get("untrained", [])
    headings = ["metric", "this model, %", "95 % interval", *([f"points against {against}"] if against else [])]
    headings += [f"{baseline['name']}, %" for baseline in untrained]
    lines += [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"] if report["metrics"] else []
    for name, entry in report["metrics"].items():
        low, high = entry["interval"]
        row = [metric_name(name), f"{100 * entry['value']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]
        row += [points(entry["difference"]) if "difference" in entry else "none"] if against else []
        row += [f"{100 * baseline['metrics'][name]['baseline']:.1f}" for baseline in untrained]
        lines.append(f"| {' | '.join(row)} |")
    if losses := [entry for entry in report.get("comparison", {}).get("slices", []) if entry["difference"] < 0][:5]:
        lines += ["", "Slices with losses:", ""]
        lines += [
            f"- {entry['name']}: {points(entry['difference'])} points ({entry['queries']:,} queries)"
            for entry in losses
        ]
    lines += ["", "Worst classes:", ""] if report["classes"] else []
    lines += [f"- {entry['label']}: MAP@R {100 * entry['map@r']:.1f} %" for entry in report["classes"][:5]]
    lines += ["", "Known limits:", "", *(f"- {limit}" for limit in report["identity"]["limits"])]
    return "\n".join(lines) + "\n"
