"""Export of a release's model for another runtime, published only if it gives the embeddings of the SavedModel.

An export is a folder:

    model.onnx, model.tflite, or model.xml and model.bin
    export.json    release, input, output, the measured difference, and size and SHA-256 of each file
"""

import json
import os
import secrets
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.disk import disk_fault, disk_trouble
from anchorage.errors import DataError, GateError, UsageError
from anchorage.extras import require_package
from anchorage.files import TEMPORARY, flush_folder, flush_folders, hash_file, write_hashed
from anchorage.release import Release
from anchorage.serving.runtimes import RUNTIMES, Embed, hide_telemetry

MANIFEST = "export.json"
FORMAT = 1
LIMIT = 1e-4

_RECORDS = 8
_BATCHES = (1, 8, 1, 3, 8, 3)  # each size twice: a runtime may prepare itself again for a new one


def convert_release(release: Release, name: str, output: str | os.PathLike) -> dict[str, Any]:
    """Export the model of a release, compare it with the SavedModel, and publish it as a new folder.

    The difference is the largest one between two numbers of the embeddings of a batch, divided by the largest magnitude
    in the batch if it is above 1. It is measured in batches of 1, 3 and 8, each embedded twice, of eight images of the
    gallery; of drawn images if those cannot be read; and of random vectors for a model of vectors.

    Args:
        release: a verified release, from `open_release`.
        name: the runtime, a key of `RUNTIMES`.
        output: folder to create; it becomes visible when it is complete.

    Returns:
        The content of `export.json`.

    Raises:
        UsageError: `E_EXTRA_MISSING`; `E_OUTPUT_EXISTS` if there is something at `output`.
        DataError: `E_MODEL_SIGNATURE` if the model takes neither pixels nor vectors.
        GateError: `E_EXPORT_FAILED` if the model cannot be converted, or not be run; `E_EXPORT_DIFFERS` if the
            difference exceeds 1e-4. Nothing is published.
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`.
    """
    output = Path(output).absolute()
    for module in RUNTIMES[name].modules:
        require_package(module, name)
    if output.exists():
        raise UsageError("E_OUTPUT_EXISTS", f"Expected a new folder. {output} is there already")
    temporary = output.with_name(f"{TEMPORARY}{output.name}-{secrets.token_hex(4)}")
    with disk_trouble(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            document = _convert(release, name, temporary)
            write_hashed(json.dumps(document, indent=1).encode(), temporary / MANIFEST)
            flush_folders(temporary)
            temporary.rename(output)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush_folder(output.parent)
    return document


def _convert(release: Release, name: str, folder: Path) -> dict[str, Any]:
    """Write the model to `folder`, compare it, and return the content of `export.json`."""
    import tensorflow as tf

    model = tf.saved_model.load(str(release.path))
    endpoint, spec = _find_endpoint(release, model.signatures)
    samples, records, origin = _sample(release, spec)
    outputs = model.signatures["serving_default"](**{spec.name: tf.constant(samples)})
    expected = outputs["embeddings"].numpy()
    runtime = RUNTIMES[name]
    path = folder / runtime.file
    try:
        _write(release, endpoint, spec, name, path)
        difference = _measure(runtime.open(path), records, expected)
    except Exception as error:
        if fault := disk_fault(error, folder):
            raise fault from error
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise _refusal("E_EXPORT_FAILED", endpoint, f"a model that {name} runs. Received {message:.300}") from error
    if not difference <= LIMIT:  # true for NaN
        wanted = f"embeddings within {LIMIT:g} of those of the SavedModel. Received a difference of {difference:.2g}"
        raise _refusal("E_EXPORT_DIFFERS", endpoint, wanted)
    files = {file.name: {"sha256": hash_file(file), "size": file.stat().st_size} for file in sorted(folder.iterdir())}
    return {
        "format": FORMAT,
        "runtime": name,
        "file": path.name,
        "release": {
            "version": release.version,
            "manifest": release.manifest["bundle"],
            "model_fingerprint": release.model_fingerprint,
        },
        "input": _describe_input(release, spec),
        "output": {"name": "embeddings", "shape": [None, expected.shape[1]], "dtype": "float32"},
        "comparison": {"difference": difference, "limit": LIMIT, "records": origin, "batches": list(_BATCHES)},
        "libraries": {package: metadata.version(package) for package in ("keras", *runtime.packages)},
        "files": files,
    }


def _find_endpoint(release: Release, signatures: Any) -> tuple[str, Any]:
    """Return the signature to convert, and name, shape and type of its input.

    Releases of earlier versions have no "convert". ONNX takes the others, too; the comparison finds out about the rest.
    """
    for endpoint in ("convert", "pixels", "serving_default"):
        if endpoint in signatures:
            (spec,) = signatures[endpoint].structured_input_signature[1].values()
            if spec.dtype.name in ("uint8", "float32"):
                return endpoint, spec
    raise DataError(
        "E_MODEL_SIGNATURE",
        f"Expected a model of pixels or vectors in {release.path}. Received the signatures {', '.join(signatures)}.",
    )


def _write(release: Release, endpoint: str, spec: Any, name: str, path: Path) -> None:
    """Convert a signature with Keras's exporter."""
    import keras

    hide_telemetry()
    layer = keras.layers.TFSMLayer(str(release.path), call_endpoint=endpoint)
    records = keras.Input(spec.shape[1:], dtype=spec.dtype.name, name=spec.name)
    model = keras.Model(records, {"embeddings": layer(records)["embeddings"]})
    model.export(os.fspath(path), format=name, verbose=False, input_signature=[spec])


def _measure(embed: Embed, records: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over all batches."""
    differences = []
    for size in _BATCHES:
        received, wanted = embed(records[:size]), expected[:size]
        if received.shape != wanted.shape:
            raise ValueError(f"embeddings of shape {received.shape} instead of {wanted.shape}")
        differences.append(np.abs(received - wanted).max() / max(1.0, np.abs(wanted).max()))
    return float(np.max(differences))


def _refusal(code: str, endpoint: str, wanted: str) -> GateError:
    advice = "" if endpoint == "convert" else " The release is of an earlier version: `anchorage run` makes a new one."
    return GateError(code, f"Expected {wanted}. Nothing is published.{advice}")


def _sample(release: Release, spec: Any) -> tuple[Any, np.ndarray, str]:
    """Return a batch for the SavedModel, the same batch for the other runtime, and its origin."""
    if spec.dtype.name == "float32":
        vectors = np.random.default_rng(0).normal(size=(_RECORDS, *spec.shape[1:])).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors, vectors, "random vectors of unit length"
    from anchorage.data.images import load_image
    from anchorage.serving.warmup import sample_images

    images, origin = _gallery_images(release), "images of the gallery"
    if not images:
        images, origin = sample_images() * 2, "drawn images"
    return images, np.stack([load_image(image, spec.shape[1], _fit(release)).numpy() for image in images]), origin


def _gallery_images(release: Release) -> list[bytes]:
    """Return images spread over the gallery; none if one of them cannot be read."""
    from anchorage.data.images import check_image
    from anchorage.retrieval.table import read_ids

    ids = read_ids(release.gallery_path)["id"]
    root = Path(release.facts.get("data_root", "."))
    rows = np.linspace(0, len(ids) - 1, _RECORDS).astype(int)
    try:
        images = [(root / ids[row]).read_bytes() for row in rows]
    except OSError:
        return []
    return images if not any(map(check_image, images)) else []


def _describe_input(release: Release, spec: Any) -> dict[str, Any]:
    described = {"name": spec.name, "shape": [None, *spec.shape[1:]], "dtype": spec.dtype.name}
    if spec.dtype.name == "float32":
        return described
    resize = {"fit": _fit(release), "resize": "bilinear, antialiased, rounded to whole numbers"}
    return {**described, "range": [0, 255], "channels": "RGB", **resize}


def _fit(release: Release) -> str:
    """Return how images are resized: from the facts of the index, or, for earlier releases, from the experiment."""
    data = release.facts.get("experiment", {}).get("data", {})
    return release.manifest["index"].get("fit") or data.get("fit", "crop")
