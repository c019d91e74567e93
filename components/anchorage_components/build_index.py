"""BuildIndex: builds a nearest-neighbor index of the gallery embeddings and checks its recall."""

from collections import Counter
from typing import Any

import apache_beam as beam
import numpy as np
from absl import logging
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.types.artifact_utils import get_split_uri
from tfx.types.standard_artifacts import Examples

from anchorage.data.store import RecordStore, content_digest
from anchorage.errors import DataError
from anchorage.progress import track
from anchorage.retrieval.index_building import SHARD_ROWS
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.retrieval.table import Embeddings
from anchorage_components.artifacts import EmbeddingTable, RetrievalIndex, read_table_facts
from anchorage_components.beam.indexing import index_table
from anchorage_components.nodes import node
from anchorage_components.parameters import from_parameter

_CHUNK = 256  # images per read


@node(use_beam=True)
def BuildIndex(
    embeddings: InputArtifact[EmbeddingTable],
    index: OutputArtifact[RetrievalIndex],
    store: InputArtifact[Examples] = None,
    splits_json: Parameter[str] = '["test"]',
    neighbors: Parameter[int] = 10,
    min_recall: Parameter[float] = IndexLimits.min_recall,
    max_p99_ms: Parameter[float] = 0.0,
    max_memory_mib: Parameter[float] = 0.0,
    leaves: Parameter[int] = 0,
    shard_rows: Parameter[int] = SHARD_ROWS,
    seed: Parameter[int] = 0,
    code_version: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    """Builds the fastest index of the gallery that keeps to limits of recall, time and memory.

    A gallery of more than `shard_rows` is built in shards, each by a worker of Beam, and searched as one.

    The gallery consists of the rows with role "gallery" or "both". Recall is measured with the rows with role "query"
    or, if there are none, with gallery rows, each excluded from its own results.

    Args:
        embeddings: output of EmbedExamples; rows of unit length.
        index: output folder for `scann/`, `ids.parquet` (id, label, role, split and, from `store`, the digest of the
            pixels, in row order), `index.json` and, for an index in shards, `vectors.npy`; gets the custom properties
            `recall`, `rows` and `kind`.
        store: packed images, whose digests let a search exclude a query image from its own results.
        splits_json: JSON list of the splits that make up the gallery.
        neighbors: number of neighbors per query.
        min_recall: minimum share of true neighbors found, in [0, 1].
        max_p99_ms: limit on the 99th percentile of the time of a query; 0 for none.
        max_memory_mib: limit on the memory of the index; 0 for none.
        leaves: number of partitions of each shard; 0 chooses it by the number of rows.
        shard_rows: most rows of a shard.
        seed: seed for the sample of probe queries.
        code_version: digest of the code; part of the cache key, otherwise unused.
        beam_pipeline: provided by TFX.

    Raises:
        DataError: `E_SPLIT_EMPTY`, `E_VECTOR_NOT_FINITE`, `E_VECTOR_ZERO`, `E_INDEX_EMPTY`.
        ResourceError: `E_BEAM_WORKER`, `E_BEAM_STALLED`.
        GateError: `E_INDEX_RECALL`, `E_INDEX_LIMITS` if no parameters of the index keep to the limits.
    """
    facts = read_table_facts(embeddings.uri)
    if facts is None:
        raise DataError("E_TABLE_MISSING", f"Expected embeddings in {embeddings.uri}. Received: an empty table")
    fingerprint = facts["model_fingerprint"]
    built = index_table(
        embeddings.uri,
        index.uri,
        options=beam_pipeline.options,
        describe=lambda gallery: _describe(gallery, store, fingerprint),
        splits=from_parameter(splits_json),
        neighbors=neighbors,
        limits=IndexLimits(min_recall, max_p99_ms, max_memory_mib),
        leaves=leaves,
        shard_rows=shard_rows,
        seed=seed,
    )
    index.set_float_custom_property("recall", built.facts["recall"])
    index.set_int_custom_property("rows", built.rows)
    index.set_string_custom_property("kind", built.facts["kind"])
    logging.info("index: %s", {name: value for name, value in built.facts.items() if name != "trials"})


def _describe(gallery: Embeddings, store: Examples | None, fingerprint: str) -> tuple[list[str] | None, dict[str, Any]]:
    """Digests of the packed pixels of the gallery, and the facts that searches and the report need."""
    digests, packed = (None, {}) if store is None else _read_digests(store, gallery)
    counts = {"classes": len(np.unique(gallery.labels)), "splits": dict(Counter(gallery.splits.tolist()))}
    return digests, {"model_fingerprint": fingerprint, **counts, **packed}


def _read_digests(store: Examples, gallery: Embeddings) -> tuple[list[str], dict[str, Any]]:
    """`content_digest` of each row's packed record, and the settings of the packing; raises `E_RELEASE_MIXED`."""
    digests: dict[str, str] = {}
    packed: dict[str, Any] = {}
    for split in np.unique(gallery.splits).tolist():
        records = RecordStore(get_split_uri([store], split))
        packed = {} if records.spec.dimension else records.spec.to_dict()  # vectors are not those of the index
        for start in track(range(0, len(records), _CHUNK), "hashing images"):
            rows = np.arange(start, min(start + _CHUNK, len(records)))
            images = records.read(rows)
            digests |= zip(records.ids[rows].tolist(), map(content_digest, images), strict=True)
    if missing := [id_ for id_ in gallery.ids.tolist() if id_ not in digests]:
        raise DataError(
            "E_RELEASE_MIXED",
            f"Expected a packed image for each embedding. Received: none for {len(missing)}: {missing[:3]}",
        )
    return [digests[id_] for id_ in gallery.ids.tolist()], packed
