"""Inputs and outputs of EvaluateRetrieval and PublishRelease: a tiny exported model, its embeddings, a ScaNN index."""

import json
from pathlib import Path

import numpy as np
from tfx.types.standard_artifacts import Model, ModelBlessing

from anchorage.release import fingerprint_model
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.table import Embeddings, write_ids, write_table
from anchorage_components.artifacts import (
    BaselineRelease,
    EmbeddingTable,
    Release,
    RetrievalIndex,
    RetrievalReport,
)
from anchorage_components.evaluate_retrieval import EvaluateRetrieval
from anchorage_components.publish_release import PublishRelease

CLASSES, EACH = 5, 4


def table_of(split, noise, seed=0, dim=5, classes=CLASSES):
    rng = np.random.default_rng(seed)
    labels = np.array([f"{split}-{number}" for number in range(classes) for _ in range(EACH)], object)
    vectors = np.repeat(rng.normal(size=(classes, dim)), EACH, axis=0) + noise * rng.normal(size=(classes * EACH, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
    ids = np.array([f"{split}/{row}.png" for row in range(len(labels))], object)
    return Embeddings(ids, labels, np.full(len(ids), "both", object), np.full(len(ids), split, object), vectors)


class Workshop:
    """Makes input artifacts below one folder, and calls the two components."""

    def __init__(self, folder, export_encoder):
        self.folder = folder
        self.model = self.artifact(Model, "model")
        self.model.id = 17
        export_encoder(0, folder / "model/Format-Serving")
        self.fingerprint = fingerprint_model(folder / "model/Format-Serving")

    def artifact(self, kind, name):
        artifact = kind()
        artifact.uri = str(self.folder / name)
        return artifact

    def embeddings(self, name, *tables, fingerprint=None):
        artifact = self.artifact(EmbeddingTable, name)
        Path(artifact.uri).mkdir()
        for number, table in enumerate(tables):
            write_table(Path(artifact.uri) / f"vectors-{number}.parquet", table)
        facts = {"model_fingerprint": fingerprint or self.fingerprint, "dimension": 5, "counts": {}}
        (Path(artifact.uri) / "table.json").write_text(json.dumps(facts))
        return artifact

    def index(self, table, name="index", fingerprint=None):
        artifact = self.artifact(RetrievalIndex, name)
        Path(artifact.uri).mkdir()
        built = build_index(table.vectors, neighbors=3)
        save_index(built, artifact.uri, model_fingerprint=fingerprint or self.fingerprint)
        write_ids(Path(artifact.uri) / "ids.parquet", table)
        return artifact

    def evaluate(self, embeddings, name="report", settings=None, **others):
        outputs = {
            "report": self.artifact(RetrievalReport, name),
            "blessing": self.artifact(ModelBlessing, f"{name}-blessing"),
        }
        plain = {"metrics": ["recall@1", "map@r"], "minimum": {"map@r": 0.3}, "max_drop": 0.01, "slices": []}
        arguments = {
            "settings_json": json.dumps({**plain, "seed": 1, **(settings or {})}),
            "facts_json": '{"experiment": {"name": "tiny", "seed": 1}, "run_key": "k"}',
        }
        EvaluateRetrieval.test_call(embeddings=embeddings, model=self.model, **outputs, **{**arguments, **others})
        return outputs, json.loads((Path(outputs["report"].uri) / "report.json").read_text())

    def baseline(self, **facts):
        artifact = self.artifact(BaselineRelease, "baseline")
        Path(artifact.uri).mkdir()
        found = {"version": 4, "path": "x", "first": False, "reason": "Release 4 is current.", **facts}
        (Path(artifact.uri) / "baseline.json").write_text(json.dumps(found))
        return artifact

    def publish(self, index, outputs, **others):
        release = self.artifact(Release, "release")
        PublishRelease.test_call(
            model=self.model,
            index=index,
            release=release,
            releases=str(self.folder / "releases"),
            facts_json='{"run_key": "k"}',
            **outputs,
            **others,
        )
        return release


def assert_blessed(outputs, case, reason, blessed=True):
    blessing = outputs["blessing"]
    assert blessing.get_string_custom_property("case") == case
    assert blessing.get_string_custom_property("reason").startswith(reason)
    assert blessing.get_int_custom_property("blessed") == int(blessed)
    assert [path.name for path in Path(blessing.uri).iterdir()] == ["BLESSED" if blessed else "NOT_BLESSED"]
