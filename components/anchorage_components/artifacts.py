"""Artifact types of the pipeline, and the names of the files in them that several nodes go by.

A type name is a public contract in ML Metadata.

Kubeflow's compiler takes a custom type only under the name "<module>.<Class>"
with one dot, imports it by that name in the container, and allows it no
PROPERTIES. Hence the names at the top of `components`, and custom properties
where a value must travel with an artifact. A packed record store is a standard
`Examples` artifact, because the stock Trainer and Tuner accept no other.

Nodes do not import one another: each one's cache key counts all code that it
imports.
"""

import json
from pathlib import Path

from tfx.types.artifact import Artifact

from anchorage.errors import DataError

AUDIT = "audit.json"
TABLE, NO_BASELINE = "table.json", "none.json"
IDS = "ids.parquet"
THRESHOLDS, CALIBRATION = "thresholds.json", "calibration.json"
BASELINE = "baseline.json"
HISTORY = "history.json"  # of the Trainer, in its ModelRun
TRIALS = "tuner_results.json"  # of the Tuner
UNTRAINED = "untrained"  # folder in the Trainer's ModelRun, with a SavedModel for each baseline that is a network


class DataAudit(Artifact):
    """Folder with `audit.json` and `audit.md`: what is wrong with the data, by kind and with names."""

    TYPE_NAME = "anchorage_components.DataAudit"


class EmbeddingTable(Artifact):
    """Folder with Parquet files (id, label, role, split, vector), `table.json` and `rejects.jsonl`."""

    TYPE_NAME = "anchorage_components.EmbeddingTable"


class UntrainedEmbeddings(Artifact):
    """Folder with an embedding table for each baseline without training: pixels, network, features."""

    TYPE_NAME = "anchorage_components.UntrainedEmbeddings"


class RetrievalIndex(Artifact):
    """Folder with `scann/`, `ids.parquet` in row order and `index.json`."""

    TYPE_NAME = "anchorage_components.RetrievalIndex"


class RetrievalReport(Artifact):
    """Folder with `report.json`, `report.html` and the figures as PNG."""

    TYPE_NAME = "anchorage_components.RetrievalReport"


class BaselineRelease(Artifact):
    """Folder with `baseline.json`: the release a candidate is compared with, or that there is none."""

    TYPE_NAME = "anchorage_components.BaselineRelease"


class Release(Artifact):
    """Folder with `release.json`: version and path of what was published."""

    TYPE_NAME = "anchorage_components.Release"


def read_table_facts(uri: str) -> dict | None:
    """`table.json` of an EmbeddingTable folder; None where there was no release to embed with.

    Raises:
        DataError: `E_TABLE_MISSING` if neither was written.
    """
    folder = Path(uri)
    if (folder / NO_BASELINE).is_file():
        return None
    try:
        return json.loads((folder / TABLE).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError("E_TABLE_MISSING", f"Expected {TABLE} in {folder}. Received: {error}") from error
