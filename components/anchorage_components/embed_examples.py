"""EmbedExamples: embeds images with a model into an embedding table."""

import functools
import json
import posixpath
from pathlib import Path

import apache_beam as beam
from absl import logging
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.types.standard_artifacts import Examples, Model
from tfx.utils import path_utils

from anchorage.data.examples import (
    REJECTS,
    ExampleShard,
    list_shards,
    read_counts,
    read_examples,
    read_rejects,
    write_rejects,
)
from anchorage.data.intake import reject_limit
from anchorage.data.listing import MAX_REJECT_SHARE, MAX_REJECTS
from anchorage.data.tables import PATH
from anchorage.errors import DataError
from anchorage.files import replace_file
from anchorage.progress import task
from anchorage.release import fingerprint_model, open_release
from anchorage.retrieval.table import count_rows
from anchorage_components.artifacts import BASELINE, NO_BASELINE, TABLE, BaselineRelease, EmbeddingTable
from anchorage_components.beam.embedding import (
    EMBEDDING,
    Embedder,
    Item,
    embedding_size,
    format_rejects,
    read_rejects_of_jobs,
)
from anchorage_components.beam.jobs import run_jobs
from anchorage_components.nodes import node
from anchorage_components.parameters import from_parameter


@node(use_beam=True)
def EmbedExamples(
    examples: InputArtifact[Examples],
    embeddings: OutputArtifact[EmbeddingTable],
    model: InputArtifact[Model] = None,
    baseline: InputArtifact[BaselineRelease] = None,
    splits_json: Parameter[str] = '["test"]',
    attributes_json: Parameter[str] = "[]",
    code_version: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    """Embeds the images or vectors of some splits with a trained model or with the model of an earlier release.

    Exactly one of `model` and `baseline` is given. If `baseline` is empty, because there is no earlier release, the
    output folder contains only `none.json`.

    Args:
        examples: output of ImageExampleGen.
        embeddings: output folder for `vectors-*.parquet`, `rejects.jsonl` and, written last, `table.json` with the
            fingerprint of the model, the dimension, the rows per split and the number of rejects.
        model: output of the Trainer.
        baseline: output of FindRelease.
        splits_json: JSON list of splits to embed.
        attributes_json: JSON list of attributes of the examples to add as columns of the table, besides the paths of
            pictures that vectors have.
        code_version: digest of the code; part of the cache key, otherwise unused.
        beam_pipeline: provided by TFX.

    Raises:
        DataError: `E_SPLIT_EMPTY`, `E_TOO_MANY_REJECTS`, `E_EMBEDDINGS_INCOMPLETE` if records are missing,
            `E_MODEL_SIGNATURE`, or the error of a damaged shard or release.
    """
    if (model is None) == (baseline is None):
        raise ValueError(f"Expected either `model` or `baseline`. Received: model={model}, baseline={baseline}")
    folder = Path(embeddings.uri)
    folder.mkdir(parents=True, exist_ok=True)
    if baseline is not None:
        release = json.loads((Path(baseline.uri) / BASELINE).read_text(encoding="utf-8"))
        if release["version"] is None:
            _write_json(folder / NO_BASELINE, {"reason": release["reason"]})
            logging.info("no baseline to embed with: %s", release["reason"])
            return
        model_folder, fingerprint = _open_baseline(release)
    else:
        model_folder = path_utils.serving_model_path(model.uri)
        fingerprint = fingerprint_model(model_folder)

    splits = from_parameter(splits_json)
    shards = {split: list_shards(examples.uri, split) for split in splits}
    total = sum(shard.records or 0 for part in shards.values() for shard in part)
    jobs = [(split, number, tuple(shard)) for split in splits for number, shard in enumerate(shards[split])]
    embedder = Embedder(model_folder, fingerprint, tuple(_columns(examples.uri, from_parameter(attributes_json))))
    with task(EMBEDDING, total or None):
        run_jobs(
            beam_pipeline,
            jobs,
            functools.partial(_embed_shard, embedder, examples.uri, str(folder)),
            functools.partial(_write_rejects, str(folder)),
            str(folder),
        )
    counts = _check_counts(folder, shards)
    facts = {"model_fingerprint": fingerprint, "dimension": embedding_size(model_folder), **counts}
    _write_json(folder / TABLE, facts)
    logging.info("embedded %s", facts)


def _columns(uri: str, attributes: list[str]) -> list[str]:
    """Additional columns of the table."""
    has_paths = (read_counts(uri) or {}).get("has_paths", False)
    return sorted({*attributes, *([PATH] if has_paths else [])})


def _open_baseline(facts: dict) -> tuple[str, str]:
    """Open and verify the release in `baseline.json`; return its folder and the fingerprint of its model."""
    release = open_release(facts["path"])
    if release.version != facts["version"]:
        raise DataError(
            "E_RELEASE_MIXED", f"Expected release {facts['version']} in {facts['path']}. Received: {release.version}"
        )
    return str(release.path), release.model_fingerprint


def _embed_shard(embedder: Embedder, uri: str, folder: str, job: tuple[str, int, tuple]) -> None:
    split, number, fields = job
    items = (
        Item(example.id, example.id, example.label, example.role, split, example.content, example.attributes)
        for example in read_examples(uri, ExampleShard(*fields))
    )
    embedder.write(items, folder, f"vectors-{split}-{number:05}")


def _write_rejects(folder: str, results: list) -> None:
    write_rejects(posixpath.join(folder, REJECTS), read_rejects_of_jobs(folder))


def _check_counts(folder: Path, shards: dict[str, list[ExampleShard]]) -> dict:
    """Check that every record is in the table or rejected, and that the rejects are few; return the counts."""
    counts, rejects = count_rows(folder), read_rejects(str(folder))
    for reject in rejects[:20]:
        logging.warning("rejected %s: %s: %s", reject.path, reject.code, reject.message)
    written, sizes = sum(counts.values()), [shard.records for part in shards.values() for shard in part]
    total = sum(records or 0 for records in sizes)
    if None not in sizes and written + len(rejects) != total:
        raise DataError(
            "E_EMBEDDINGS_INCOMPLETE",
            f"Expected {total} embeddings and rejects. Received: {written} and {len(rejects)}. "
            "Run the same command again",
        )
    empty = [split for split in shards if not counts.get(split)]
    if empty:
        raise DataError(
            "E_SPLIT_EMPTY",
            f"Expected images to embed in the split {empty[0]!r}. Received: none; "
            f"{format_rejects(rejects) or 'nothing was rejected'}",
        )
    limit = reject_limit(written + len(rejects), max_rejects=MAX_REJECTS, max_share=MAX_REJECT_SHARE)
    if len(rejects) > limit:
        raise DataError(
            "E_TOO_MANY_REJECTS", f"Expected at most {limit} rejected images. Received: {format_rejects(rejects)}"
        )
    return {"counts": counts, "rejects": len(rejects)}


def _write_json(path: Path, content: dict) -> None:
    replace_file(path, json.dumps(content, indent=1, sort_keys=True).encode())
