"""PublishRelease: publishes a blessed model and its index as the next release, atomically."""

import json
from pathlib import Path

import numpy as np
from absl import logging
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types.standard_artifacts import Model, ModelBlessing
from tfx.utils import path_utils

from anchorage.errors import GateError
from anchorage.files import replace_file
from anchorage.release import publish_release
from anchorage.release.manifest import read_manifest
from anchorage.release.places import version_address
from anchorage.retrieval.table import read_ids
from anchorage_components.artifacts import CALIBRATION, CARD, IDS, THRESHOLDS, Release, RetrievalIndex, RetrievalReport
from anchorage_components.nodes import node, uri_of
from anchorage_components.parameters import from_parameter


@node
def PublishRelease(
    model: InputArtifact[Model],
    index: InputArtifact[RetrievalIndex],
    report: InputArtifact[RetrievalReport],
    blessing: InputArtifact[ModelBlessing],
    release: OutputArtifact[Release],
    releases: Parameter[str],
    facts_json: Parameter[str] = "{}",
    data_version: Parameter[str] = "",
    run_key: Parameter[str] = "",
    trigger_json: Parameter[str] = "{}",
    code_version: Parameter[str] = "",
):
    """Publishes the candidate if it is blessed, and raises otherwise.

    The blessing is a required input: if the gate did not run, TFX cannot resolve it and does not run this node.

    Args:
        model: the candidate, whose serving model is published.
        index: index built with this model.
        report: report, thresholds and model card, published with the model.
        blessing: blessing of this model.
        release: output folder for `release.json` with `version`, `path` and `bundle`, the identity of the manifest;
            gets the custom property `version`.
        releases: path or URI of the folder of releases; created if it does not exist.
        facts_json: JSON object for the manifest, such as `experiment`.
        data_version: digest of the data, for the manifest.
        run_key: identity of the run, for the manifest.
        trigger_json: JSON object with the reasons why a scheduled run started, as `Need.to_facts` gives them.
        code_version: digest of the code; part of the cache key, otherwise unused.

    Raises:
        GateError: `E_NOT_BLESSED`, with the reasons of the gate.
        DataError: `E_RELEASE_MIXED` if the index belongs to another model.
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`; nothing is published.
    """
    _check_blessing(blessing, model)
    origin = {"data_version": data_version, "run_key": run_key, "trigger": from_parameter(trigger_json)}
    ids = Path(index.uri) / IDS
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
            CARD: Path(report.uri) / CARD,
        },
        facts={
            **from_parameter(facts_json),
            **{name: value for name, value in origin.items() if value},
            **_read_results(report),
        },
    )
    path = version_address(releases, version)
    folder = Path(release.uri)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"version": version, "path": path, "bundle": read_manifest(path)["bundle"]}
    replace_file(folder / "release.json", json.dumps(facts, indent=1).encode())
    release.set_int_custom_property("version", version)
    logging.info("published release %d in %s", version, releases)


def _check_blessing(blessing: ModelBlessing, model: Model) -> None:
    reason = blessing.get_string_custom_property("reason") or "no reason."
    if blessing.get_int_custom_property("blessed") != 1:
        raise GateError(
            "E_NOT_BLESSED",
            f"Expected a blessed model. Received: {reason} Nothing is published. With `training.epochs = 0` the "
            "network is released without training.",
        )
    blessed_model = blessing.get_string_custom_property("current_model")
    if blessed_model != uri_of(model):
        raise GateError(
            "E_NOT_BLESSED", f"Expected a blessing for the model in {uri_of(model)}. Received: one for {blessed_model}."
        )


def _read_results(report: RetrievalReport) -> dict:
    """The results in the report that the manifest repeats."""
    results = json.loads((Path(report.uri) / "report.json").read_text(encoding="utf-8"))
    primary = results["primary"]
    return {
        "metrics": {name: entry["value"] for name, entry in results["metrics"].items()},
        "intervals": {name: entry["interval"] for name, entry in results["metrics"].items() if "interval" in entry},
        "primary": primary,
        "untrained": {each["name"]: each["metrics"][primary]["baseline"] for each in results.get("untrained", [])},
        "split": results["split"],
        "evaluation_set": results["evaluation_set"],
        "verdict": results["verdict"],
    }
