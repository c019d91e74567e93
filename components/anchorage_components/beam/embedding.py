"""Batch embedding with Beam, for EmbedExamples and `anchorage embed`: a job reads items and writes one Parquet file.

A job is done when its file is there, which appears at once and depends on nothing but the items and the model. So a job
that is repeated, or done twice at the same time, gives the same file. If a batch fails, its images are embedded one by
one, and those that fail are written to a dead-letter file.
"""

import functools
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import tensorflow as tf
from apache_beam.utils.shared import Shared
from tensorflow.core.protobuf import saved_model_pb2

from anchorage.data.images import check_image
from anchorage.data.listing import Reject
from anchorage.errors import DataError
from anchorage.progress import advance
from anchorage.retrieval.table import TEXT_COLUMNS, embedding_schema
from anchorage_components.beam import files

T = TypeVar("T")

EMBEDDING = "embedding"  # title of the task in `anchorage.progress`
DEAD_LETTERS = "rejects"  # folder of the rejects of each job

_SIGNATURE = "serving_default"
_BATCH = 128  # items in one call of the model, at most
_BATCH_BYTES = 64 << 20  # of encoded images in one call


class Item(NamedTuple):
    """An encoded image, or a vector `(V,)`, with its metadata."""

    path: str
    id: str
    label: str
    role: str
    split: str
    content: bytes | np.ndarray
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Embedder:
    """Embeds items with an exported encoder; workers of one process share the model.

    Args:
        model_folder: a SavedModel with the signature `serving_default`, from image bytes or vectors to embeddings
            `(N, D)`, at the same path for all workers.
        fingerprint: of the model; becomes the metadata `model_fingerprint` of each file.
        attributes: names of attributes to write as columns; "" for an item without the attribute.
    """

    model_folder: str
    fingerprint: str
    attributes: tuple[str, ...] = ()
    shared: Shared = field(default_factory=Shared, repr=False, compare=False)

    def write(self, items: Iterable[Item | Reject], folder: str, name: str) -> None:
        """Embed items into `<name>.parquet` (id, label, role, split, attributes, vector), in their order.

        Args:
            items: what to embed, and rejects of what could not be read; read one batch ahead.
            folder: folder of the table.
            name: name of the file; its rejects, if there are any, are in `rejects/<name>.jsonl`.
        """
        model = self.shared.acquire(functools.partial(tf.saved_model.load, self.model_folder))
        embedded: list[Item] = []
        vectors: list[np.ndarray] = []
        rejects: list[Reject] = []
        for batch in _ahead(_batches(items)):
            good = [item for item in batch if isinstance(item, Item)]
            rejects += [item for item in batch if isinstance(item, Reject)]
            if good:
                kept, matrix, bad = embed_batch(good, model)
                embedded += kept
                vectors.append(matrix)
                rejects += bad
            advance(EMBEDDING, len(batch))
        letters = posixpath.join(folder, DEAD_LETTERS, f"{name}.jsonl")
        if rejects:
            files.write(letters, "".join(f"{as_json(reject)}\n" for reject in rejects).encode())
        else:
            files.remove(letters)  # of an attempt that ended before its vectors were written
        dimension = embedding_size(self.model_folder)
        matrix = np.concatenate(vectors) if vectors else np.empty((0, dimension), np.float32)
        files.write(posixpath.join(folder, f"{name}.parquet"), self._encode(embedded, matrix))

    def _encode(self, items: Sequence[Item], vectors: np.ndarray) -> bytes:
        """A Parquet file with these rows."""
        columns = [pa.array([getattr(item, name) for item in items], pa.string()) for name in TEXT_COLUMNS]
        attributes = [dict(item.attributes) for item in items]
        columns += [pa.array([each.get(name, "") for each in attributes], pa.string()) for name in self.attributes]
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        schema = embedding_schema(vectors.shape[1], self.attributes)
        schema = schema.with_metadata({"model_fingerprint": self.fingerprint})
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_arrays(columns, schema=schema), sink)
        return sink.getvalue().to_pybytes()


def embed_batch(items: Sequence[Item], model: Any) -> tuple[list[Item], np.ndarray, list[Reject]]:
    """Embed items with one call of a loaded model.

    Returns:
        The embedded items, their embeddings `(n, D)`, and a `Reject` for each other item.
    """
    try:
        vectors, valid = _call(model, items)
    except tf.errors.OpError:  # a model of an earlier version, in which a bad image fails the batch
        return _embed_one_by_one(items, model)
    kept = [item for item, good in zip(items, valid, strict=True) if good]
    return kept, vectors[valid], [_reject(item) for item, good in zip(items, valid, strict=True) if not good]


def read_rejects_of_jobs(folder: str) -> list[Reject]:
    """Read the rejects of all jobs that wrote to a folder, sorted."""
    rejects = []
    letters = posixpath.join(folder, DEAD_LETTERS)
    for name in files.list_folder(letters):
        if name.endswith(".jsonl"):
            lines = files.read(posixpath.join(letters, name)).decode().split("\n")
            rejects += [Reject(**json.loads(line)) for line in lines if line]
    return sorted(rejects)


def embedding_size(model_folder: str) -> int:
    """Embedding size D of a SavedModel; see `model_input`."""
    return model_input(model_folder)[1]


def model_input(model_folder: str) -> tuple[str, int]:
    """Input kind of a SavedModel, "images" or "vectors", and its embedding size D; read without loading the model.

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


def format_rejects(rejects: Sequence[Reject]) -> str:
    """Number of rejects by code, and the message of the first one."""
    counts = Counter(reject.code for reject in rejects)
    first = "".join(f". First: {reject.path}: {reject.message}" for reject in rejects[:1])
    return ", ".join(f"{number} {code}" for code, number in counts.most_common()) + first


def as_json(reject: Reject) -> str:
    """One line of a dead-letter file."""
    return json.dumps(reject._asdict(), ensure_ascii=False)


def _embed_one_by_one(items: Sequence[Item], model: Any) -> tuple[list[Item], np.ndarray, list[Reject]]:
    kept: list[Item] = []
    vectors: list[np.ndarray] = []
    rejects: list[Reject] = []
    for item in items:
        try:
            vectors.append(_call(model, [item])[0][0])
            kept.append(item)
        except tf.errors.OpError as error:
            if not isinstance(item.content, bytes):
                raise
            if check_image(item.content) is None and not isinstance(error, tf.errors.InvalidArgumentError):
                raise  # not an error of the image, such as out of memory
            reason = error.message.partition("}} ")[2] or error.message
            rejects.append(_reject(item, reason.strip().splitlines()[0]))
    return kept, np.stack(vectors) if vectors else np.empty((0, 0), np.float32), rejects


def _batches(items: Iterable[Item | Reject]) -> Iterator[list[Item | Reject]]:
    """Lists of at most `_BATCH` items and about `_BATCH_BYTES`."""
    batch: list[Item | Reject] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.content) if isinstance(item, Item) else 0
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ahead(batches: Iterator[T]) -> Iterator[T]:
    """Prepare the next batch while one is in work."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


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
