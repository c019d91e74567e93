"""EmbedUntrained: embeds packed images with baselines that are not trained on the training images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types.artifact_utils import get_split_uri
from tfx.types.standard_artifacts import Examples, ModelRun

from anchorage.data.store import RecordStore
from anchorage.errors import DataError
from anchorage.progress import track
from anchorage.retrieval.table import Embeddings, write_table
from anchorage.untrained import NAMES, embed_raw
from anchorage.vectors import unit_vectors
from anchorage_components.artifacts import UNTRAINED, UntrainedEmbeddings
from anchorage_components.nodes import node

_SPLIT = "test"  # the split that is evaluated
_BATCH = 128  # images per call of a model


@node
def EmbedUntrained(
    store: InputArtifact[Examples],
    model_run: InputArtifact[ModelRun],
    embeddings: OutputArtifact[UntrainedEmbeddings],
    code_version: Parameter[str] = "",
):
    """Embeds the test split as raw pixels, with the network before training and with its features if it is pretrained.

    Args:
        store: output of PackExamples.
        model_run: run folder of the Trainer, with `untrained/network` and optionally `untrained/features`.
        embeddings: output folder for `pixels.parquet` or `vectors.parquet`, `network.parquet` and optionally
            `features.parquet`; rows have unit length.
        code_version: digest of the code; part of the cache key, otherwise unused.

    Raises:
        DataError: `E_STORE_MISSING`, `E_STORE_DAMAGED`; `E_BASELINE_MISSING` if the Trainer wrote no network.
    """
    records = RecordStore(get_split_uri([store], _SPLIT))
    models = Path(model_run.uri) / UNTRAINED
    if not (models / "network/saved_model.pb").is_file():
        raise DataError(
            "E_BASELINE_MISSING",
            f"Expected the network before training in {models}. Received: none. "
            "Run the same command with --reset-metadata to train again",
        )
    folder = Path(embeddings.uri)
    folder.mkdir(parents=True, exist_ok=True)
    embedded = dict([embed_raw(records)])
    for name in ("network", "features"):
        if (models / name).is_dir():
            embedded[name] = np.concatenate([unit_vectors(rows) for rows in _run(models / name, records)])
    for name, vectors in embedded.items():
        labels = np.array(records.class_names, object)[records.labels]
        splits = np.full(len(records), _SPLIT, object)
        write_table(folder / f"{name}.parquet", Embeddings(records.ids, labels, records.roles, splits, vectors))
        logging.info("embedded %d images with %s", len(records), NAMES[name])


def _run(folder: Path, records: RecordStore) -> Iterator[np.ndarray]:
    model = tf.saved_model.load(str(folder))
    signature, name = ("serving_default", "vectors") if records.spec.dimension else ("pixels", "images")
    for start in track(range(0, len(records), _BATCH), f"batches, {NAMES[folder.name]}"):
        batch = records.read(np.arange(start, min(start + _BATCH, len(records))))
        yield model.signatures[signature](**{name: tf.constant(batch)})["embeddings"].numpy()
