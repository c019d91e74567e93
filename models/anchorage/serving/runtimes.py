"""Runtimes besides TensorFlow that run the model of a release: how each opens and calls an exported file."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Embed = Callable[[np.ndarray], np.ndarray]  # (N, ...) records to (N, D) embeddings


class Runtime(NamedTuple):
    """A runtime, whose name is that of the format in `keras.Model.export` and of the extra that installs it.

    Attributes:
        file: name of the exported file.
        modules: what writing and running import.
        packages: the packages that these are in, whose versions an export records.
        open: opens an exported file, on the CPU and in float32.
    """

    file: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    open: Callable[[Path], Embed]


def _open_onnx(path: Path) -> Embed:
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    (records,) = session.get_inputs()
    return lambda batch: session.run(["embeddings"], {records.name: batch})[0]


def _open_litert(path: Path) -> Embed:
    from ai_edge_litert.interpreter import Interpreter

    run: Any = Interpreter(os.fspath(path)).get_signature_runner()
    (name,) = run.get_input_details()
    return lambda batch: run(**{name: batch})["embeddings"]


def _open_openvino(path: Path) -> Embed:
    hide_telemetry()
    import openvino

    # Where the processor has bfloat16, the default precision, embeddings differ by some thousandths.
    model = openvino.compile_model(os.fspath(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: model(batch)["embeddings"]


def hide_telemetry() -> None:
    """Keep OpenVINO, unless it is already imported, from reporting its use over the network, as it does by default."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it then fails


RUNTIMES = {
    "onnx": Runtime("model.onnx", ("tf2onnx", "onnxruntime"), ("tf2onnx", "onnxruntime"), _open_onnx),
    "litert": Runtime("model.tflite", ("ai_edge_litert",), ("ai-edge-litert",), _open_litert),
    "openvino": Runtime("model.xml", ("openvino",), ("openvino",), _open_openvino),
}
