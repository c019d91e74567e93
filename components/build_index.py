"""BuildIndex: gallery embeddings in, a checked nearest-neighbour index out."""

import json
from pathlib import Path

import numpy as np
from absl import logging
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from components.artifacts import IDS, EmbeddingTable, RetrievalIndex, read_table_facts
from models.errors import DataError
from models.retrieval.index import build_index, save_index
from models.retrieval.table import read_table, write_ids


@component
def BuildIndex(
    embeddings: InputArtifact[EmbeddingTable],
    index: OutputArtifact[RetrievalIndex],
    splits_json: Parameter[str] = '["test"]',
    neighbors: Parameter[int] = 10,
    min_recall: Parameter[float] = 0.95,
    leaves: Parameter[int] = 0,
    seed: Parameter[int] = 0,
    code_version: Parameter[str] = "",
):
    """Indexes what can be found, and refuses an index that forgets too much of it.

    The gallery is every row whose role is "gallery" or "both". Recall is measured with the rows whose role is
    "query", or, where there are none, with gallery rows that are each left out of their own answer.

    Args:
        embeddings: what EmbedExamples wrote; rows of unit length.
        index: gets `scann/`, `ids.parquet` (id, label, role in row order) and `index.json`, and the custom properties
            `recall`, `rows` and `kind`.
        splits_json: JSON list of splits that make up the gallery.
        neighbors: neighbours a query asks for.
        min_recall: least accepted share, in [0, 1], of true neighbours found.
        leaves: partitions of the index; 0 lets the number of rows decide.
        seed: picks the probes.
        code_version: digest of the code; part of the cache key, not used otherwise.

    Raises:
        DataError: `E_SPLIT_EMPTY`, `E_VECTOR_NOT_FINITE`, `E_VECTOR_ZERO`, `E_INDEX_EMPTY`.
        GateError: `E_INDEX_RECALL` if measured recall stays below `min_recall`.
    """
    facts = read_table_facts(embeddings.uri)
    if facts is None:
        raise DataError("E_TABLE_MISSING", f"Expected embeddings in {embeddings.uri}. Received: those of no release")
    table = read_table(embeddings.uri, json.loads(splits_json))
    gallery, queries = table.select(table.roles != "query"), table.select(table.roles == "query")
    built = build_index(
        gallery.vectors,
        ids=gallery.ids,
        neighbors=neighbors,
        min_recall=min_recall,
        leaves=leaves,
        probes=queries.vectors if len(queries) else None,
        seed=seed,
    )

    folder = Path(index.uri)
    folder.mkdir(parents=True, exist_ok=True)
    write_ids(folder / IDS, gallery)
    save_index(built, folder, model_fingerprint=facts["model_fingerprint"], classes=len(np.unique(gallery.labels)))
    index.set_float_custom_property("recall", built.facts["recall"])
    index.set_int_custom_property("rows", len(gallery))
    index.set_string_custom_property("kind", built.facts["kind"])
    logging.info("index: %s", built.facts)
