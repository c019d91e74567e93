"""TensorFlow Serving's Predict API without its transports: the signatures of a release, answered by the service.

Requests are checked against the signatures in the SavedModel of the release, and answered as TensorFlow Serving answers
them, but through the service's checks, batches and limits. A bad record costs its own row: `valid` is False there and
the embedding is zero. In releases whose signatures have no `valid` it is an error, as in TensorFlow Serving.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anchorage.data.examples import IMAGE, VECTOR
from anchorage.errors import AnchorageError, DataError, ResourceError, UsageError
from anchorage.serving.queries import encode_query
from anchorage_pipeline.serving.batching import OverloadedError
from anchorage_pipeline.serving.deployment import Deployment
from anchorage_pipeline.serving.disclosure import public_message
from anchorage_pipeline.serving.service import Service
from anchorage_pipeline.serving.signatures import DEFAULT, MODEL, read_signatures

_BAD_RECORD = ("E_IMAGE_", "E_VECTOR_", "E_QUERY_SHAPE", "E_RECORD_REFUSED")


class Refusal(Exception):  # noqa: N818 - a status of gRPC, not a fault of this program
    """A request that is answered with a status of gRPC.

    Args:
        status: name of the status, such as "INVALID_ARGUMENT".
        message: what was expected and received.
    """

    def __init__(self, status: str, message: str):
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class ModelSpec:
    """What a request asks for: name, version (None for the current release) and signature ("" for the default)."""

    name: str
    version: int | None = None
    signature: str = ""


class Predicted(NamedTuple):
    """Outputs by name, and the version and signature that they are of."""

    outputs: dict[str, np.ndarray]
    version: int
    signature: str


class Prediction:
    """Answers the methods of the API.

    Args:
        service: has the releases, and embeds.
    """

    def __init__(self, service: Service):
        self._service = service
        self.limits = service.settings.limits

    def signatures(self, spec: ModelSpec) -> tuple[int, Mapping[str, Any]]:
        """Return the version of a release and its SignatureDefs by name.

        Raises:
            Refusal: NOT_FOUND, UNAVAILABLE.
        """
        deployment = self._pick(spec)
        return deployment.version, read_signatures(deployment.engine.release.path)

    def versions(self, spec: ModelSpec) -> list[int]:
        """Return the versions that are served: those of the spec.

        Raises:
            Refusal: NOT_FOUND.
        """
        loaded = [each.version for each in self._service.releases.loaded if spec.name == MODEL]
        if spec.version is not None and spec.version not in loaded:
            raise Refusal("NOT_FOUND", f"Could not find version {spec.version} of model {spec.name}")
        if not loaded:
            raise Refusal("NOT_FOUND", f"Could not find any versions of model {spec.name}")
        return sorted(loaded) if spec.version is None else [spec.version]

    def input_of(self, spec: ModelSpec) -> tuple[str, Any]:
        """Return name and TensorInfo of the only input of a signature.

        Raises:
            Refusal: NOT_FOUND, UNAVAILABLE, FAILED_PRECONDITION.
        """
        return next(iter(_signature(self.signatures(spec)[1], spec).inputs.items()))

    async def predict(
        self, spec: ModelSpec, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = (), seconds: float = 0
    ) -> Predicted:
        """Run a signature.

        Args:
            spec: the release and its signature.
            inputs: arrays by name, of the types and shapes of the signature; strings as an array of bytes objects.
            output_filter: names of the outputs to return; all if empty.
            seconds: time that the caller waits; 0 for the limit of the service.

        Raises:
            Refusal: INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED,
                UNAVAILABLE.
        """
        limit = min(seconds or self.limits.request_seconds, self.limits.request_seconds)
        try:
            async with asyncio.timeout(limit):
                return await self._predict(spec, inputs, output_filter)
        except TimeoutError:
            raise Refusal("DEADLINE_EXCEEDED", f"Expected to answer within {limit:.3g} s") from None
        except AnchorageError as error:
            raise _refusal(error) from error

    async def _predict(
        self, spec: ModelSpec, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str]
    ) -> Predicted:
        with ExitStack() as stack:
            deployment = stack.enter_context(self._pick(spec).lease())
            signature = _signature(read_signatures(deployment.engine.release.path), spec)
            names = _outputs(signature, output_filter)
            _check_names(signature, inputs)
            ((name, info),) = signature.inputs.items()
            values = inputs[name]
            check_tensor(name, info, values.dtype, values.shape, self.limits.pending)
            records = _records(spec.signature or DEFAULT, values, deployment.engine.embedder.takes_vectors)
            embeddings, faults = await self._embed(deployment, records)
        if "valid" not in signature.outputs and any(faults):
            row, fault = next((row, fault) for row, fault in enumerate(faults) if fault)
            raise Refusal("INVALID_ARGUMENT", f"Row {row} of {name}: {fault}")
        outputs = {"embeddings": embeddings, "valid": np.array([not fault for fault in faults], bool)}
        return Predicted({name: outputs[name] for name in names}, deployment.version, spec.signature or DEFAULT)

    async def _embed(
        self, deployment: Deployment, records: Sequence[bytes | np.ndarray | DataError]
    ) -> tuple[np.ndarray, list[str]]:
        """Return the embeddings, zeros for a bad record, and for each record its fault or ""."""
        embeddings = np.zeros((len(records), deployment.engine.embedder.dimension), np.float32)
        faults = [""] * len(records)

        async def embed(row: int, record: bytes | np.ndarray | DataError) -> None:
            try:
                if isinstance(record, DataError):
                    raise record
                image, vector = (record, None) if isinstance(record, bytes) else (None, record)
                embeddings[row] = (await self._service.embed(deployment, image, vector)).vector
            except DataError as error:
                if not error.code.startswith(_BAD_RECORD):
                    raise
                faults[row] = str(error)

        if records:
            async with self._service.admitted(len(records)):
                tasks = (embed(row, record) for row, record in enumerate(records))
                for error in await asyncio.gather(*tasks, return_exceptions=True):
                    if error is not None:
                        raise error
        return embeddings, faults

    def _pick(self, spec: ModelSpec) -> Deployment:
        version = f"Specific({spec.name}, {spec.version})" if spec.version is not None else f"Latest({spec.name})"
        if spec.name != MODEL:
            raise Refusal("NOT_FOUND", f"Servable not found for request: {version}")
        try:
            return self._service.releases.pick(spec.version)
        except UsageError as error:
            raise Refusal("NOT_FOUND", f"Servable not found for request: {version}") from error
        except AnchorageError as error:
            raise _refusal(error) from error


def check_tensor(name: str, info: Any, dtype: Any, shape: Sequence[int], most_rows: int) -> None:
    """Check type and shape of an input before its values are read.

    Args:
        name: name of the input.
        info: its TensorInfo.
        dtype: received type.
        shape: received shape.
        most_rows: limit on the batch.

    Raises:
        Refusal: INVALID_ARGUMENT.
    """
    import tensorflow as tf

    expected = tf.as_dtype(info.dtype)
    if tf.as_dtype(dtype) != expected:
        received = tf.as_dtype(dtype).name
        raise Refusal("INVALID_ARGUMENT", f"Expected {expected.name} as {name}. Received: {received}")
    sizes = [size.size for size in info.tensor_shape.dim]
    fits = len(shape) == len(sizes) and all(
        have == size if size >= 0 else have >= 0 for size, have in zip(sizes, shape, strict=True)
    )
    if not fits:
        shown = f"({', '.join('N' if size < 0 else str(size) for size in sizes)})"
        raise Refusal("INVALID_ARGUMENT", f"Expected the shape {shown} for {name}. Received: {tuple(shape)}")
    if shape[0] > most_rows:
        raise Refusal("INVALID_ARGUMENT", f"Expected at most {most_rows} rows in one request. Received: {shape[0]}")


def _signature(signatures: Mapping[str, Any], spec: ModelSpec) -> Any:
    name = spec.signature or DEFAULT
    if name not in signatures:
        raise Refusal("FAILED_PRECONDITION", f'Serving signature key "{name[:100]}" not found.')
    return signatures[name]


def _outputs(signature: Any, output_filter: Sequence[str]) -> list[str]:
    known = sorted(signature.outputs)
    for name in output_filter:
        if name not in known:
            raise Refusal(
                "INVALID_ARGUMENT",
                f"output tensor alias not found in signature: {name[:100]} Outputs expected to be in the set "
                f"{{{','.join(known)}}}.",
            )
    if len(set(output_filter)) < len(output_filter):
        raise Refusal("INVALID_ARGUMENT", f"duplicate output tensor alias: {output_filter[-1][:100]}")
    return list(output_filter) or known


def _check_names(signature: Any, inputs: Mapping[str, Any]) -> None:
    if set(inputs) != set(signature.inputs):
        sent, expected = (", ".join(sorted(names))[:200] for names in (inputs, signature.inputs))
        raise Refusal(
            "INVALID_ARGUMENT", f"input size does not match signature: expected {{{expected}}}. Received: {{{sent}}}"
        )


def _records(signature: str, values: np.ndarray, vectors: bool) -> list[bytes | np.ndarray | DataError]:
    """Return the images or vectors in an input; for an example without one, why there is none."""
    if signature in ("pixels", "convert") and not vectors:
        return [encode_query(image) for image in values]
    if signature == "examples":
        return [_of_example(example, vectors) for example in values]
    return list(values)


def _of_example(data: bytes, vectors: bool) -> bytes | np.ndarray | DataError:
    import tensorflow as tf
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        features: Any = tf.train.Example.FromString(data).features.feature
    except DecodeError:
        features = {}
    if vectors:
        return np.array(features[VECTOR].float_list.value if VECTOR in features else [], np.float32)
    images: Any = features[IMAGE].bytes_list.value if IMAGE in features else []
    if len(images) != 1:
        return DataError("E_IMAGE_EMPTY", f"Expected a tf.Example with one {IMAGE}. Received: {len(images)}")
    return images[0]


def _refusal(error: AnchorageError) -> Refusal:
    """Return the status for an error of the service."""
    if isinstance(error, OverloadedError):
        status = "RESOURCE_EXHAUSTED"
    elif error.code == "E_DEADLINE":
        status = "DEADLINE_EXCEEDED"
    elif isinstance(error, ResourceError):
        status = "UNAVAILABLE"
    else:
        status = "INVALID_ARGUMENT" if isinstance(error, UsageError) else "INTERNAL"
    return Refusal(status, f"{error.code}: {public_message(error)}")
