"""Embedders that call a model server: TensorFlow Serving by gRPC, or one of the open inference protocol by HTTP.

The server serves the folder of releases, so that its versions are those of the releases, and each call names the
version. Before the first call, each time that a connection was lost or a call failed, and every ten seconds, its
embeddings of the release's warm-up records are compared with those that the exporter noted: a server with another model
is refused, so that vectors of two models do not meet in one index.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.release import Release
from anchorage.serving.embedders import Embedder, LocalEmbedder, accepted
from anchorage.serving.warmup import WARMUP, sample_images
from anchorage_pipeline.serving.breaker import CircuitBreaker
from anchorage_pipeline.serving.calls import LateError, Transport, UnreachableError
from anchorage_pipeline.serving.signatures import DEFAULT, MODEL, read_signatures
from anchorage_pipeline.serving.transports import OpenInference, TensorFlowServing

_TRANSPORTS: dict[str, Callable[[str, str, int], Transport]] = {
    "tensorflow": TensorFlowServing,
    "triton": OpenInference,
}
_NEAR = 0.01  # accepted difference of two embeddings, relative to their length: that of other hardware is below
_RECORDS, _BYTES = 64, 20 * 2**20  # per call, at most


@dataclass(frozen=True)
class ServerSettings:
    """Client of a model server.

    Args:
        call_seconds: time for a call with all its tries.
        tries: tries of a call; only a server out of reach is tried again.
        pause_seconds: mean pause before the second try; it doubles with each further one.
        failures: failed calls in a row, each after all its tries or its time, until calls are refused at once.
        refuse_seconds: time until a single call is let through then.
        verify_seconds: time after which the model of the server is compared again.
    """

    call_seconds: float = 10.0
    tries: int = 4
    pause_seconds: float = 0.1
    failures: int = 2
    refuse_seconds: float = 2.0
    verify_seconds: float = 10.0


def connect_server(address: str, release: Release, settings: ServerSettings | None = None) -> Embedder:
    """Return an embedder that calls the model server at an address, which has been found to have the model.

    Args:
        address: `tensorflow:HOST:PORT` (gRPC) or `triton:HOST:PORT` (HTTP), for the model "anchorage", or with
            `/NAME` at its end.
        release: the verified release.
        settings: how the server is called.

    Raises:
        UsageError: `E_MODEL_SERVER_ADDRESS`.
        ResourceError: `E_MODEL_SERVER` if the server cannot be reached or does not have the version.
        DataError: `E_RELEASE_MIXED` if it has another model.
    """
    kind, _, place = address.partition(":")
    host, _, name = place.partition("/")
    if kind not in _TRANSPORTS or not host.rpartition(":")[0] or not host.rpartition(":")[2].isdigit():
        raise UsageError(
            "E_MODEL_SERVER_ADDRESS",
            f"Expected tensorflow:HOST:PORT or triton:HOST:PORT, with /NAME for a model of another name than {MODEL!r}."
            f" Received: {address!r:.200}",
        )
    transport = _TRANSPORTS[kind](host, name or MODEL, release.version)
    embedder = RemoteEmbedder(transport, release, address, settings or ServerSettings())
    embedder.verify()
    return embedder


class RemoteEmbedder:
    """Embeds on a model server; may be called by several threads.

    Args:
        transport: calls the server.
        release: the release whose model the server must have.
        address: the server, for messages.
        settings: how the server is called.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        transport: Transport,
        release: Release,
        address: str,
        settings: ServerSettings,
        sleep: Callable[[float], None] = time.sleep,
    ):
        signature = read_signatures(release.path)[DEFAULT]
        ((self._input, info),) = signature.inputs.items()
        self.dimension: int = signature.outputs["embeddings"].tensor_shape.dim[1].size
        self.fingerprint = release.model_fingerprint
        self.input_dimension: int = info.tensor_shape.dim[1].size if self._input == "vectors" else 0
        self.takes_pixels = False
        self.breaker = CircuitBreaker(address, settings.failures, settings.refuse_seconds)
        self._transport, self._release, self._address = transport, release, address
        self._settings, self._sleep = settings, sleep
        self._failures = 0
        self._verified: tuple[int, int] | None = None  # failures and losses before the model was compared
        self._verify_at = 0.0
        self._lock = threading.Lock()

    @property
    def takes_vectors(self) -> bool:
        """See `Embedder.takes_vectors`."""
        return self.input_dimension > 0

    def embed(self, records: Sequence[bytes | np.ndarray] | np.ndarray) -> np.ndarray:
        """Embed records; see `Embedder.embed`.

        Raises:
            ResourceError: `E_MODEL_SERVER` if the server does not answer, or has another model than the release.
            DataError: `E_RECORD_REFUSED`.
        """
        self._verify_again()
        embeddings = [np.empty((0, self.dimension), np.float32)]
        for batch in _batches(records):
            embeddings.append(accepted(self._call(np.stack(batch) if self.takes_vectors else batch)))
        self._verify_again()  # what answered may be another server than before
        return np.concatenate(embeddings)

    def _verify_again(self) -> None:
        if self._verified == (self._failures, self._transport.losses) and time.monotonic() < self._verify_at:
            return
        try:
            self.verify()
        except DataError as error:  # a fault of the server, not of the records
            raise ResourceError("E_MODEL_SERVER", error.message) from error

    def verify(self) -> None:
        """Compare the server's embeddings of the warm-up records with those of the release.

        Raises:
            ResourceError: `E_MODEL_SERVER` if the server does not answer.
            DataError: `E_RELEASE_MIXED` if the embeddings differ.
        """
        with self._lock:
            before = self._failures, self._transport.losses
            records, expected = _probe(self._release)
            found = accepted(self._call(records))
            differences = np.inf
            if found.shape == expected.shape:
                differences = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
            if not np.all(differences < _NEAR):
                raise DataError(
                    "E_RELEASE_MIXED",
                    f"Expected the model of release {self._release.version} ({self.fingerprint[:12]}) at "
                    f"{self._address}. Received: embeddings of shape {found.shape} that differ from those of the "
                    f"release by up to {np.max(differences):.3g} of their length. Serve the folder of releases there.",
                )
            self._verified, self._verify_at = before, time.monotonic() + self._settings.verify_seconds

    def _call(self, records: Sequence[bytes] | np.ndarray) -> Mapping[str, np.ndarray]:
        """Call the server, again if it is out of reach."""
        self.breaker.enter()
        end = time.monotonic() + self._settings.call_seconds
        for number in range(self._settings.tries):
            left = end - time.monotonic()
            try:
                outputs = self._transport(self._input, records, max(left, 0.001))
            except UnreachableError as error:
                self._failures += 1  # what answers next may be another server
                pause = self._settings.pause_seconds * 2**number * random.uniform(0.5, 1.5)
                if number + 1 < self._settings.tries and pause < end - time.monotonic():
                    self._sleep(pause)
                    continue
                raise self._failure(f"it cannot be reached in {number + 1} tries: {error}") from error
            except LateError as error:
                self._failures += 1
                raise self._failure(f"no answer in {self._settings.call_seconds:g} s") from error
            self.breaker.succeeded()
            return self._checked(outputs, len(records))
        raise AssertionError("there is at least one try")  # pragma: no cover

    def _failure(self, reason: str) -> ResourceError:
        self.breaker.failed()
        return ResourceError("E_MODEL_SERVER", f"Expected answers from {self._address}. Received: {reason[:300]}")

    def _checked(self, outputs: Mapping[str, np.ndarray], rows: int) -> Mapping[str, np.ndarray]:
        embeddings = outputs.get("embeddings")
        if embeddings is None or embeddings.ndim != 2 or len(embeddings) != rows or embeddings.dtype != np.float32:
            received = "none" if embeddings is None else f"{embeddings.dtype} of shape {embeddings.shape}"
            raise ResourceError(
                "E_MODEL_SERVER", f"Expected {rows} float32 embeddings from {self._address}. Received: {received}"
            )
        valid = outputs.get("valid")
        if valid is not None and (valid.shape != (rows,) or valid.dtype != np.bool_):
            received = f"{valid.dtype} of shape {valid.shape}"
            raise ResourceError(
                "E_MODEL_SERVER", f"Expected {rows} bool as `valid` from {self._address}. Received: {received}"
            )
        return outputs


def _batches(records: Sequence[Any] | np.ndarray) -> Iterator[list[Any]]:
    """Split records into batches of bounded number and size."""
    batch: list[Any] = []
    size = 0
    for record in records:
        length = record.nbytes if isinstance(record, np.ndarray) else len(record)
        if batch and (len(batch) == _RECORDS or size + length > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += length
    if batch:
        yield batch


def _probe(release: Release) -> tuple[Any, np.ndarray]:
    """Return warm-up records and their embeddings by the release's own model."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    path = release.path / WARMUP
    if not path.is_file():  # a release of an earlier version
        local = LocalEmbedder(release)
        records = np.eye(4, local.input_dimension, dtype=np.float32) + 1 if local.takes_vectors else sample_images()
        return records, local.embed(records)
    for record in tf.data.TFRecordDataset(str(path)):
        log = PredictionLog.FromString(record.numpy()).predict_log
        ((_, values),) = log.request.inputs.items()
        if log.request.model_spec.signature_name == DEFAULT and values.tensor_shape.dim[0].size > 1:
            array = tf.make_ndarray(values)
            records = list(array) if array.dtype == object else array
            return records, tf.make_ndarray(log.response.outputs["embeddings"])
    raise DataError("E_RELEASE_DAMAGED", f"Expected requests of {DEFAULT} in {path}. Received: none.")
