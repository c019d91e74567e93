"""The report on one page of Markdown, for a mail or a pull request."""

from collections.abc import Mapping
from typing import Any

from models.reporting.gate import metric_name, points


def summarize(report: Mapping[str, Any]) -> str:
    """Verdict, reasons, metrics with intervals, slices that lost, the classes that do worst, known limits."""
    counts, verdict = report["counts"], report["verdict"]
    lines = [f"# {verdict['state']}: {report['experiment']}", "", *(f"- {reason}" for reason in verdict["reasons"]), ""]
    lines += [
        f"Split {report['split']}: {counts['queries']:,} queries of {counts['classes']:,} classes against "
        f"{counts['gallery']:,} gallery images, {counts['distance']}; {report['created'][:10]}.",
        "",
    ]
    against = report["baseline"]["name"]
    lines.append(f"| metric | this model, % | 95 % interval |{f' points against {against} |' if against else ''}")
    lines.append(f"|---|---|---|{'---|' if against else ''}")
    for name, entry in report["metrics"].items():
        low, high = entry["interval"]
        row = f"| {metric_name(name)} | {100 * entry['value']:.1f} | {100 * low:.1f} to {100 * high:.1f} |"
        lines.append(row + (f" {points(entry['difference'])} |" if "difference" in entry else ""))
    if lost := [entry for entry in report.get("comparison", {}).get("slices", []) if entry["difference"] < 0][:5]:
        lines += ["", "Slices that lost:", ""]
        lines += [
            f"- {entry['name']}: {points(entry['difference'])} points ({entry['queries']:,} queries)" for entry in lost
        ]
    lines += ["", "Classes that do worst:", ""]
    lines += [f"- {entry['label']}: MAP@R {100 * entry['map@r']:.1f} %" for entry in report["classes"][:5]]
    lines += ["", "Known limits:", "", *(f"- {limit}" for limit in report["identity"]["limits"])]
    return "\n".join(lines) + "\n"
