"""The model card of a release, in the format of the Hugging Face Hub: YAML metadata, then Markdown."""

import json
from collections.abc import Mapping
from typing import Any

from anchorage.judging.gate import metric_name

_TASK = "image-feature-extraction"


def write_card(report: Mapping[str, Any]) -> str:
    """Write the model card.

    Args:
        report: content of `report.json`; the licence is `license` of its `facts`, if they name one.
    """
    head = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in _metadata(report).items())
    identity, counts = report["identity"], report["counts"]
    model = dict(identity["model"])
    rows = [
        f"| {metric_name(name)} | {100 * entry['value']:.1f} | "
        f"{100 * entry['interval'][0]:.1f} to {100 * entry['interval'][1]:.1f} |"
        for name, entry in report["metrics"].items()
    ]
    measured = [
        f"Split {report['split']}: {counts['queries']:,} queries of {counts['classes']:,} classes against "
        f"{counts['gallery']:,} gallery images, {counts['distance']}, seed {report['reproduce']['seed']}.\n",
        "| metric | value, % | 95 % interval |\n|---|---|---|",
        *rows,
    ]
    return "\n".join(
        [
            f"---\n{head}\n---\n\n# {report['experiment']}\n",
            f"## Intended use\n\n{model.pop('Use')}\n",
            "## Limitations\n",
            *(f"- {limit}" for limit in identity["limits"]),
            "\n## Model\n",
            *(f"- {name}: {_plain(value)}" for name, value in model.items()),
            "\n## Data\n",
            *(f"- {name}: {_plain(value)}" for name, value in identity["data"].items()),
            "\n## Evaluation\n",
            *(measured if rows else ["Not measured."]),
            "",
        ]
    )


def _metadata(report: Mapping[str, Any]) -> dict[str, Any]:
    license_ = report.get("facts", {}).get("license")
    metrics = [
        {"type": name, "name": metric_name(name), "value": entry["value"]} for name, entry in report["metrics"].items()
    ]
    data = {"type": "private", "name": report["identity"]["data"].get("Source", "unknown"), "split": report["split"]}
    result = {"task": {"type": _TASK}, "dataset": data, "metrics": metrics}
    model = {"name": report["experiment"], "results": [result]}
    return {
        **({"license": license_} if license_ else {}),
        "library_name": "keras",
        "pipeline_tag": _TASK,
        "tags": ["deep-metric-learning", "image-retrieval", "embeddings", "anchorage"],
        **({"metrics": list(report["metrics"]), "model-index": [model]} if metrics else {}),
    }


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)
