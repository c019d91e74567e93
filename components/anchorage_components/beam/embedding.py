"""Batch embedding with Beam, for EmbedExamples and `anchorage embed`.

If a batch fails, its images are embedded one by one, and those that fail are written to a dead-letter file.
"""

import io
import json
import os
import posixpath
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import PIL.Image
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow.core.protobuf import saved_model_pb2

from anchorage.data.examples import REJECTS, read_rejects
from anchorage.data.images import MAX_PIXELS, check_image
from anchorage.data.inputs import Input, list_inputs
from anchorage.data.intake import read_file
from anchorage.data.listing import Reject
from anchorage.errors import DataError, UsageError
from anchorage.files import TEMPORARY, replace_file
from anchorage.progress import advance, task
from anchorage.release.fingerprint import fingerprint_model
from anchorage.retrieval.table import TEXT_COLUMNS, count_rows, embedding_schema, read_table, write_table

LOCAL_RUNNER = ("--direct_running_mode=in_memory", "--direct_num_workers=1")

_SIGNATURE = "serving_default"
EMBEDDING = "embedding"  # title of the task in `anchorage.progress`
_BATCH = 128  # items in one call of the model, at most


class Item(NamedTuple):
    """An encoded image, or a vector `(V,)`, with its metadata."""

    path: str
    id: str
    label: str
    role: str
    split: str
    content: bytes | np.ndarray
    attributes: tuple[tuple[str, str], ...] = ()


class Embedded(NamedTuple):
    """Numbers of embedded and rejected images."""

    embedded: int
    rejected: int


class SavedModelHandler(ModelHandler[Item, dict[str, Any] | Reject, Any]):
    """Runs the signature `serving_default` of an exported encoder: image bytes or vectors to embeddings `(N, D)`.

    Args:
        folder: the SavedModel.
        batch_size: maximum number of images per call; Beam tunes the number from a quarter of it upwards.
    """

    def __init__(self, folder: str, batch_size: int):
        super().__init__(min_batch_size=max(1, batch_size // 4), max_batch_size=batch_size)
        self._folder = folder

    def load_model(self) -> Any:
        return tf.saved_model.load(self._folder)  # not only the signature, which does not keep its model alive

    def run_inference(
        self, batch: Sequence[Item], model: Any, inference_args: Mapping[str, Any] | None = None
    ) -> Iterable[dict[str, Any] | Reject]:
        """A table row for each embedded image and a `Reject` for each failed one, in the order of the batch."""
        advance(EMBEDDING, len(batch))
        try:
            results = zip(batch, *_call(model, batch), strict=True)
        except tf.errors.OpError:  # a model of an earlier version, in which a bad image fails the batch
            return [self._embed_one(item, model) for item in batch]
        return [_row(item, vector) if valid else _reject(item) for item, vector, valid in results]

    def get_num_bytes(self, batch: Sequence[Item]) -> int:
        return sum(len(item.content) for item in batch)

    def get_metrics_namespace(self) -> str:
        return "anchorage_embedding"

    def _embed_one(self, item: Item, model: Any) -> dict[str, Any] | Reject:
        try:
            return _row(item, _call(model, [item])[0][0])
        except tf.errors.OpError as error:
            if not isinstance(item.content, bytes):
                raise
            if check_image(item.content) is None and not isinstance(error, tf.errors.InvalidArgumentError):
                raise  # not an error of the image, such as out of memory
            reason = error.message.partition("}} ")[2] or error.message
            return _reject(item, reason.strip().splitlines()[0])


def embed_items(items: beam.PCollection, model_folder: str, folder: str, attributes: Sequence[str] = ()) -> None:
    """Embed images or vectors, and write embeddings and rejects to a folder.

    Args:
        items: collection of `Item`, and of `Reject` for those that could not be read.
        model_folder: a SavedModel with the signature `serving_default`.
        folder: output folder for `vectors-*.parquet` (id, label, role, split, vector) and `rejects.jsonl` (path, id,
            code, message, split); Beam writes temporary files and renames them.
        attributes: names of attributes to write as columns; "" for an item without the attribute.
    """
    # Partition puts False into the first collection and True into the second.
    readable, unreadable = items | "ApartFromUnreadable" >> beam.Partition(_is_reject, 2)
    results = readable | "Embed" >> RunInference(SavedModelHandler(model_folder, _BATCH))
    rows, bad = results | "ApartFromBad" >> beam.Partition(_is_reject, 2)
    schema = embedding_schema(embedding_size(model_folder), attributes)
    names, blank = schema.names, dict.fromkeys(attributes, "")
    complete = rows | "Columns" >> beam.Map(lambda row: {name: {**blank, **row}[name] for name in names})
    _ = complete | "WriteVectors" >> beam.io.WriteToParquet(
        posixpath.join(folder, "vectors"),
        schema=schema,
        file_name_suffix=".parquet",
    )
    _ = (
        (unreadable, bad)
        | "Rejects" >> beam.Flatten()
        | "AsJson" >> beam.Map(_as_json)
        | "WriteRejects" >> beam.io.WriteToText(posixpath.join(folder, REJECTS), shard_name_template="")
    )


def embedding_size(model_folder: str) -> int:
    """Embedding size D of a SavedModel; see `model_input`."""
    return model_input(model_folder)[1]


def model_input(model_folder: str) -> tuple[str, int]:
    """What a SavedModel takes, "images" or "vectors", and its embedding size D; read without loading the model.

    Raises:
        DataError: `E_MODEL_SIGNATURE` if there is no model that maps image bytes or vectors to `(N, D)` floats.
    """
    path = posixpath.join(model_folder, "saved_model.pb")
    if not tf.io.gfile.exists(path):
        raise DataError("E_MODEL_SIGNATURE", f"Expected a SavedModel in {model_folder}. Received: no saved_model.pb")
    with tf.io.gfile.GFile(path, "rb") as file:
        (graph, *_) = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    if _SIGNATURE in graph.signature_def:
        signature = graph.signature_def[_SIGNATURE]
        inputs, embeddings = dict(signature.inputs), signature.outputs.get("embeddings")
        takes = {name: tf.as_dtype(inputs[name].dtype) for name in inputs}
        if embeddings and takes in ({"images": tf.string}, {"vectors": tf.float32}):
            size = [dim.size for dim in embeddings.tensor_shape.dim]
            if embeddings.dtype == tf.float32.as_datatype_enum and len(size) == 2 and size[1] > 0:
                return next(iter(takes)), size[1]
    raise DataError(
        "E_MODEL_SIGNATURE",
        f"Expected a signature {_SIGNATURE!r} from `images` (N,) strings or `vectors` (N, V) float32 to `embeddings` "
        f"(N, D) float32 in {model_folder}. Received: {sorted(graph.signature_def)}. "
        "Export the encoder with `anchorage.serving.export`",
    )


def embed_files(
    images: Sequence[str | os.PathLike],
    model_folder: str | os.PathLike,
    output: str | os.PathLike,
    beam_args: Sequence[str] = (),
) -> Embedded:
    """Embed images or vectors into one Parquet table, sorted by id.

    The id of an image is its given path in NFC, or that in its table; label, role and split are those of a table.
    Rejects are listed in `<output>.rejects.jsonl`, which is written only if there are any. The metadata of the file has
    the fingerprint of the model as `model_fingerprint`.

    Args:
        images: image files, folders, which are searched for images by suffix, and tables; for a model of vectors tables
            of vectors, which are kept in memory.
        model_folder: a release, or any SavedModel with the same signature.
        output: path of the table, which is replaced atomically; its folder is created if needed.
        beam_args: options for Beam, such as `--runner=...`; empty runs one worker in this process.

    Raises:
        UsageError: `E_IMAGE_MISSING`, `E_BEAM_OPTION`.
        DataError: `E_NO_IMAGES` if there are no images or all are rejected, `E_MODEL_SIGNATURE`, and the errors of
            reading a table.
    """
    output, model_folder = Path(output), str(model_folder)
    options = beam_options(beam_args)
    sources, rejects = list_inputs(images, vectors=model_input(model_folder)[0] == "vectors")
    fingerprint = fingerprint_model(model_folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Next to the output, so that all workers that can access the output can access it.
    temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{output.name}-", dir=output.parent))
    try:
        with task(EMBEDDING, len(sources)), beam.Pipeline(options=options) as pipeline:
            loaded = (
                pipeline
                | "Files" >> beam.Create(sources)
                | "Spread" >> beam.Reshuffle()
                | "Read" >> beam.Map(_read_input)
            )
            embed_items(loaded, model_folder, str(temporary))
        rejects += read_rejects(str(temporary))
        _write_rejects(output.with_name(f"{output.name}.{REJECTS}"), rejects)
        if not count_rows(temporary):
            raise _no_images(images, rejects)
        table = read_table(temporary)
        write_table(output, table, {"model_fingerprint": fingerprint})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Embedded(len(table), len(rejects))


def format_rejects(rejects: Sequence[Reject]) -> str:
    """Number of rejects by code, and the message of the first one."""
    counts = Counter(reject.code for reject in rejects)
    first = "".join(f". First: {reject.path}: {reject.message}" for reject in rejects[:1])
    return ", ".join(f"{number} {code}" for code, number in counts.most_common()) + first


def _call(model: Any, batch: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings, and whether each is valid."""
    signature = model.signatures[_SIGNATURE]
    if isinstance(batch[0].content, bytes):
        inputs = {"images": tf.constant([item.content for item in batch], tf.string)}
    else:
        inputs = {"vectors": tf.constant(np.stack([item.content for item in batch]), tf.float32)}
    outputs = signature(**inputs)
    valid = outputs["valid"].numpy() if "valid" in outputs else np.ones(len(batch), bool)
    return outputs["embeddings"].numpy(), valid


def _reject(item: Item, reason: str = "Expected an image. Received: bytes that the model cannot decode") -> Reject:
    if isinstance(item.content, bytes):
        code, message = check_image(item.content) or ("E_IMAGE_DAMAGED", reason)
    else:
        code, message = "E_VECTOR_UNUSABLE", "Expected finite numbers that are not all zero"
    return Reject(item.path, item.id, code, message, item.split)


def _row(item: Item, vector: np.ndarray) -> dict[str, Any]:
    return {**dict(item.attributes), **{name: getattr(item, name) for name in TEXT_COLUMNS}, "vector": vector}


def _is_reject(element: Any, partitions: int) -> int:
    return int(isinstance(element, Reject))


def _as_json(reject: Reject) -> str:
    return json.dumps(reject._asdict(), ensure_ascii=False)


def beam_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Parse command-line options for Beam; without any, Beam runs one worker in this process.

    Raises:
        UsageError: E_BEAM_OPTION for an unknown option.
    """
    options = PipelineOptions(list(beam_args) or list(LOCAL_RUNNER))
    known = options.get_all_options(retain_unknown_options=False)
    unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    if unknown:  # Beam would only log a warning and use its defaults
        raise UsageError("E_BEAM_OPTION", f"Expected options of Beam after `--`. Received: --{unknown[0]}")
    return options


def _read_input(source: Input) -> Item | Reject:
    """Read an image; one that may be too large for memory is checked before the model decodes it."""
    if source.vector is not None:
        return Item(*source[:5], source.vector)
    data, fault = read_file(Path(source.path))
    if fault is None and _may_be_oversized(data):
        fault = check_image(data)
    return Reject(source.path, source.id, *fault) if fault else Item(*source[:5], data)


def _may_be_oversized(data: bytes) -> bool:
    """Whether the header does not rule out an oversized image; a full check would decode every image twice."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF", "BMP", "WEBP")) as image:
            return image.format == "GIF" or image.width * image.height > MAX_PIXELS  # all frames of a GIF count
    except Exception:  # Pillow's parsers raise many kinds of errors
        return True


def _write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    if rejects:
        replace_file(path, "".join(f"{_as_json(reject)}\n" for reject in sorted(rejects)).encode())
    else:
        path.unlink(missing_ok=True)


def _no_images(images: Sequence[str | os.PathLike], rejects: Sequence[Reject]) -> DataError:
    return DataError(
        "E_NO_IMAGES",
        f"Expected at least one valid image in {', '.join(map(str, images))}. Received: {format_rejects(rejects)}",
    )
