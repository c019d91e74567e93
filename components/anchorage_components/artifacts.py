"""Artifact types of the pipeline, and the file names in them that several nodes share.

A type name is a public contract in ML Metadata. Kubeflow's compiler accepts a custom type only under the name
"<module>.<Class>" with one dot, imports it by that name in the container, and allows no PROPERTIES. Therefore the
package exports the types, and values that belong to an artifact are custom properties. A packed record store is a
standard `Examples` artifact, since the stock Trainer and Tuner accept no other type.

Nodes share names through this module and do not import each other: the cache key of a node covers all code that it
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
CARD = "MODEL_CARD.md"
BASELINE = "baseline.json"
HISTORY = "history.json"  # in the Trainer's ModelRun
UNTRAINED = "untrained"  # folder in the Trainer's ModelRun, with a SavedModel per untrained baseline network


class DataAudit(Artifact):
    """Folder with `audit.json` and `audit.md`: the problems of the data, by kind."""

    TYPE_NAME = "anchorage_components.DataAudit"


class EmbeddingTable(Artifact):
    """Folder with Parquet files (id, label, role, split, vector), `table.json` and `rejects.jsonl`."""

    TYPE_NAME = "anchorage_components.EmbeddingTable"


class UntrainedEmbeddings(Artifact):
    """Folder with an embedding table for each untrained baseline: pixels, network, features."""

    TYPE_NAME = "anchorage_components.UntrainedEmbeddings"


class RetrievalIndex(Artifact):
    """Folder with `scann/`, `ids.parquet` in row order and `index.json`."""

    TYPE_NAME = "anchorage_components.RetrievalIndex"


class RetrievalReport(Artifact):
    """Folder with `report.json`, `report.html` and the figures as PNG."""

    TYPE_NAME = "anchorage_components.RetrievalReport"


class BaselineRelease(Artifact):
    """Folder with `baseline.json`: the release that a candidate is compared with, if there is one."""

    TYPE_NAME = "anchorage_components.BaselineRelease"


class Release(Artifact):
    """Folder with `release.json`: version and path of the published release."""

    TYPE_NAME = "anchorage_components.Release"


def read_table_facts(uri: str) -> dict | None:
    """Read `table.json` of an EmbeddingTable; None if the table is empty because there was no baseline release.

    Raises:
        DataError: `E_TABLE_MISSING` if the table is incomplete.
    """
    folder = Path(uri)
    if (folder / NO_BASELINE).is_file():
        return None
    try:
        return json.loads((folder / TABLE).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError("E_TABLE_MISSING", f"Expected {TABLE} in {folder}. Received: {error}") from error
