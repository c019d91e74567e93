"""A model repository for Triton Inference Server: the SavedModel of a release behind Triton's Python backend."""

import os
import shutil
from pathlib import Path

from anchorage.release import Release
from anchorage_pipeline.serving.signatures import DEFAULT, MODEL, read_signatures

_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
input {{ name: "{input}" data_type: {input_type} dims: [{input_dims}] }}
output {{ name: "embeddings" data_type: TYPE_FP32 dims: [-1, {dimension}] }}
output {{ name: "valid" data_type: TYPE_BOOL dims: [-1] }}
version_policy {{ all {{}} }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""


def write_repository(release: Release, folder: str | os.PathLike) -> Path:
    """Write the repository, in which the version of the model is that of the release.

    Args:
        release: a verified release.
        folder: where the folder of the model is created; one that exists is replaced.

    Returns:
        The folder of the model.
    """
    signature = read_signatures(release.path)[DEFAULT]
    ((name, info),) = signature.inputs.items()
    target = Path(folder) / MODEL
    shutil.rmtree(target, ignore_errors=True)
    version = target / str(release.version)
    shutil.copytree(release.path, version / "saved_model", ignore=shutil.ignore_patterns("report", "index"))
    shutil.copy(Path(__file__).with_name("triton_model.py"), version / "model.py")
    config = _CONFIG.format(
        name=MODEL,
        input=name,
        input_type="TYPE_FP32" if name == "vectors" else "TYPE_STRING",
        input_dims=", ".join(str(dim.size) for dim in info.tensor_shape.dim),
        dimension=signature.outputs["embeddings"].tensor_shape.dim[1].size,
    )
    (target / "config.pbtxt").write_text(config, encoding="utf-8")
    return target
