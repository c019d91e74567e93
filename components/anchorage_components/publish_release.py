"""PublishRelease: a blessed model and its index become the next release, whole and in one step."""

import json
from pathlib import Path

import numpy as np
from absl import logging
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Model, ModelBlessing
from tfx.utils import path_utils

from anchorage.errors import GateError
from anchorage.files import replace_file
from anchorage.release import publish_release
from anchorage.release.manifest import read_manifest
from anchorage.retrieval.table import read_ids
from anchorage_components.artifacts import CALIBRATION, IDS, THRESHOLDS, Release, RetrievalIndex, RetrievalReport


@component
def PublishRelease(
    model: InputArtifact[Model],
    index: InputArtifact[RetrievalIndex],
    report: InputArtifact[RetrievalReport],
    blessing: InputArtifact[ModelBlessing],
    release: OutputArtifact[Release],
    releases: Parameter[str],
    facts_json: Parameter[str] = "{}",
    code_version: Parameter[str] = "",
):
    """Publishes what was blessed, and nothing else.

    The blessing is no optional input: where the gate did not run, TFX cannot
    resolve it and nothing is published.

    Args:
        model: the candidate; its serving model is published.
        index: built with that model.
        report: goes along, with the thresholds.
        blessing: must be for this very model.
        release: gets `release.json`: `version`, `path` and `bundle`, the
            identity of its manifest; the custom property `version`.
        releases: folder of releases, made if absent.
        facts_json: JSON object for the manifest, such as `run_key`.
        code_version: digest of the code; part of the cache key, not used
            otherwise.

    Raises:
        GateError: `E_NOT_BLESSED` with the gate's reasons.
        DataError: `E_RELEASE_MIXED` if the index was made with another model.
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`; nothing is published.
    """
    _check_blessing(blessing, model)
    ids, findings = Path(index.uri) / IDS, _read_findings(report)
    labels = np.unique(read_ids(ids)["label"]).tolist()
    version = publish_release(
        releases,
        model_folder=path_utils.serving_model_path(model.uri),
        index_folder=index.uri,
        files={
            "gallery.parquet": ids,
            "labels.json": json.dumps(labels, ensure_ascii=False).encode(),
            THRESHOLDS: Path(report.uri) / THRESHOLDS,
            CALIBRATION: Path(report.uri) / CALIBRATION,
            "report": Path(report.uri),
        },
        facts={**json.loads(facts_json), **findings},
    )
    path = Path(releases).absolute() / str(version)
    folder = Path(release.uri)
    folder.mkdir(parents=True, exist_ok=True)
    told = {"version": version, "path": str(path), "bundle": read_manifest(path)["bundle"]}
    replace_file(folder / "release.json", json.dumps(told, indent=1).encode())
    release.set_int_custom_property("version", version)
    logging.info("published release %d in %s", version, releases)


def _check_blessing(blessing: ModelBlessing, model: Model) -> None:
    reason = blessing.get_string_custom_property("reason") or "no reason was given"
    if blessing.get_int_custom_property("blessed") != 1:
        raise GateError("E_NOT_BLESSED", f"Expected a blessed model. Received: {reason} Nothing is published.")
    blessed_model = blessing.get_string_custom_property("current_model")
    if blessed_model != model.uri:
        raise GateError(
            "E_NOT_BLESSED", f"Expected a blessing for the model in {model.uri}. Received: one for {blessed_model}."
        )


def _read_findings(report: RetrievalReport) -> dict:
    """What the manifest keeps of the report."""
    found = json.loads((Path(report.uri) / "report.json").read_text(encoding="utf-8"))
    primary = found["primary"]
    return {
        "metrics": {name: entry["value"] for name, entry in found["metrics"].items()},
        "primary": primary,
        "untrained": {each["name"]: each["metrics"][primary]["baseline"] for each in found.get("untrained", [])},
        "split": found["split"],
        "evaluation_set": found["evaluation_set"],
        "verdict": found["verdict"],
    }
