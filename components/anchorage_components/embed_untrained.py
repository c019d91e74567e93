"""EmbedUntrained: packed images in, their embeddings by baselines that learned nothing from the training images out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.artifact_utils import get_split_uri
from tfx.types.standard_artifacts import Examples, ModelRun

from anchorage.data.store import RecordStore
from anchorage.errors import DataError
from anchorage.retrieval.table import Embeddings, write_table
from anchorage.untrained import NAMES, embed_pixels, unit_rows
from anchorage_components.artifacts import UNTRAINED, UntrainedEmbeddings

_BATCH = 128  # images in one call of a model


@component
def EmbedUntrained(
    store: InputArtifact[Examples],
    model_run: InputArtifact[ModelRun],
    embeddings: OutputArtifact[UntrainedEmbeddings],
    split: Parameter[str] = "test",
    code_version: Parameter[str] = "",
):
    """Embeds a split with raw pixels, with the network before its first step and, if it had any, its stored features.

    The images are read decoded and resized as they were packed, so one pass of a model is all it costs.

    Args:
        store: what PackExamples wrote.
        model_run: the Trainer's, with `untrained/network` and perhaps `untrained/features`.
        embeddings: gets `pixels.parquet`, `network.parquet` and perhaps `features.parquet`; rows of unit length.
        split: whose images.
        code_version: digest of the code; part of the cache key, not used otherwise.

    Raises:
        DataError: `E_STORE_MISSING`, `E_STORE_DAMAGED`; `E_BASELINE_MISSING` if the Trainer left no network.
    """
    records = RecordStore(get_split_uri([store], split))
    models = Path(model_run.uri) / UNTRAINED
    if not (models / "network/saved_model.pb").is_file():
        raise DataError(
            "E_BASELINE_MISSING",
            f"Expected the network before its first step in {models}. Received: none. "
            "Run the same command with --reset-metadata: it trains again",
        )
    folder = Path(embeddings.uri)
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        if name == "pixels":
            vectors = embed_pixels(records)
        elif (models / name).is_dir():
            vectors = np.concatenate([unit_rows(rows) for rows in _run(models / name, records)])
        else:
            continue
        labels = np.array(records.class_names, object)[records.labels]
        splits = np.full(len(records), split, object)
        write_table(folder / f"{name}.parquet", Embeddings(records.ids, labels, records.roles, splits, vectors))
        logging.info("embedded %d images with %s", len(records), NAMES[name])


def _run(folder: Path, records: RecordStore) -> Iterator[np.ndarray]:
    model = tf.saved_model.load(str(folder))
    for start in range(0, len(records), _BATCH):
        images = records.read(np.arange(start, min(start + _BATCH, len(records))))
        yield model.signatures["pixels"](images=tf.constant(images))["embeddings"].numpy()
