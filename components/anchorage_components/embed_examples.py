"""EmbedExamples: images and a model in, a table of their embeddings out."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from absl import logging
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Examples, Model
from tfx.utils import path_utils

from anchorage.data.examples import ExampleShard, list_shards, read_examples, read_rejects
from anchorage.data.intake import reject_limit
from anchorage.data.listing import MAX_REJECT_SHARE, MAX_REJECTS
from anchorage.errors import DataError
from anchorage.files import replace_file
from anchorage.release import fingerprint_model, open_release
from anchorage.retrieval.table import count_rows
from anchorage_components.artifacts import BASELINE, NO_BASELINE, TABLE, BaselineRelease, EmbeddingTable
from anchorage_components.beam.embedding import Item, embed_items, embedding_size, format_rejects

_FAULTS, _FAULT_FILE = "faults", "fault.json"


@component(use_beam=True)
def EmbedExamples(
    examples: InputArtifact[Examples],
    embeddings: OutputArtifact[EmbeddingTable],
    model: InputArtifact[Model] = None,
    baseline: InputArtifact[BaselineRelease] = None,
    splits_json: Parameter[str] = '["test"]',
    attributes_json: Parameter[str] = "[]",
    batch_size: Parameter[int] = 128,
    code_version: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    """Embeds every image, or vector, of some splits, with a trained model or with an earlier release.

    Give either `model` or `baseline`. Where `baseline` says that there is no earlier release, the table is a
    folder with nothing but `none.json`.

    Args:
        examples: what ImageExampleGen wrote.
        embeddings: gets `vectors-*.parquet`, `rejects.jsonl` and, last, `table.json`: the fingerprint of the model,
            the dimension, the rows of each split and the number of rejects.
        model: what Trainer exported.
        baseline: what FindRelease found.
        splits_json: JSON list of splits.
        attributes_json: JSON list of attributes of the examples that become columns of the table.
        batch_size: images in one call of the model, at most.
        code_version: digest of the code; part of the cache key, not used otherwise.
        beam_pipeline: given by TFX.

    Raises:
        DataError: `E_SPLIT_EMPTY`, `E_TOO_MANY_REJECTS`, `E_EMBEDDINGS_INCOMPLETE` if records went missing,
            `E_MODEL_SIGNATURE`, or what reading a damaged shard or opening a damaged release raises.
    """
    if (model is None) == (baseline is None):
        raise ValueError(f"Expected either `model` or `baseline`. Received: model={model}, baseline={baseline}")
    folder = Path(embeddings.uri)
    folder.mkdir(parents=True, exist_ok=True)
    if baseline is not None:
        found = json.loads((Path(baseline.uri) / BASELINE).read_text(encoding="utf-8"))
        if found["version"] is None:
            _write_json(folder / NO_BASELINE, {"reason": found["reason"]})
            logging.info("no baseline to embed with: %s", found["reason"])
            return
        model_folder, fingerprint = _open_baseline(found)
    else:
        model_folder = path_utils.serving_model_path(model.uri)
        fingerprint = fingerprint_model(model_folder)

    splits = json.loads(splits_json)
    shards = {split: list_shards(examples.uri, split) for split in splits}
    with beam_pipeline as pipeline:
        loaded = (
            pipeline
            | "Shards" >> beam.Create([(split, tuple(shard)) for split in splits for shard in shards[split]])
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(functools.partial(_read_shard, examples.uri)).with_outputs(_FAULTS, main="items")
        )
        embed_items(loaded.items, model_folder, str(folder), batch_size, json.loads(attributes_json))
        _ = (
            loaded[_FAULTS]
            | "Faults" >> beam.combiners.ToList()
            | "WriteFault" >> beam.Map(_write_fault, str(folder / _FAULT_FILE))
        )
    if (folder / _FAULT_FILE).exists():  # an exception would come back from Beam in other words
        raise DataError(**json.loads((folder / _FAULT_FILE).read_text(encoding="utf-8")))
    counts = _check_counts(folder, shards)
    facts = {"model_fingerprint": fingerprint, "dimension": embedding_size(model_folder), **counts}
    _write_json(folder / TABLE, facts)
    logging.info("embedded %s", facts)


def _open_baseline(found: dict) -> tuple[str, str]:
    """Folder and fingerprint of the release that FindRelease named, every file checked."""
    release = open_release(found["path"])
    if release.version != found["version"]:
        raise DataError(
            "E_RELEASE_MIXED", f"Expected release {found['version']} in {found['path']}. Received: {release.version}"
        )
    return str(release.path), release.model_fingerprint


def _read_shard(uri: str, job: tuple[str, tuple]) -> Iterator[Item | beam.pvalue.TaggedOutput]:
    split, fields = job
    try:
        for example in read_examples(uri, ExampleShard(*fields)):
            yield Item(example.id, example.id, example.label, example.role, split, example.content, example.attributes)
    except DataError as error:
        yield beam.pvalue.TaggedOutput(_FAULTS, {"code": error.code, "message": error.message})


def _write_fault(faults: list[dict], path: str) -> None:
    if faults:
        _write_json(Path(path), min(faults, key=lambda fault: fault["message"]))


def _check_counts(folder: Path, shards: dict[str, list[ExampleShard]]) -> dict:
    """Every record is in the table once or among the rejects, and those are few."""
    counts, rejects = count_rows(folder), read_rejects(str(folder))
    for reject in rejects[:20]:
        logging.warning("rejected %s: %s: %s", reject.path, reject.code, reject.message)
    written, known = sum(counts.values()), [shard.records for part in shards.values() for shard in part]
    total = sum(records or 0 for records in known)
    if None not in known and written + len(rejects) != total:
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
            "E_TOO_MANY_REJECTS", f"Expected at most {limit} images that fail. Received: {format_rejects(rejects)}"
        )
    return {"counts": counts, "rejects": len(rejects)}


def _write_json(path: Path, content: dict) -> None:
    replace_file(path, json.dumps(content, indent=1, sort_keys=True).encode())
