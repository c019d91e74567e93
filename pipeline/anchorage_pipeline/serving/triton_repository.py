"""A model repository for Triton Inference Server: the SavedModel of a release behind Triton's Python backend."""

import os
import shutil
from pathlib import Path

from anchorage.errors import UsageError
from anchorage.files import TEMPORARY, flush_folders, locked, remove_leftovers, replace_file
from anchorage.release import Release
from anchorage_pipeline.serving.signatures import DEFAULT, MODEL, read_signatures

_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
input {{ name: "{input}" data_type: {input_type} dims: [{input_dims}] }}
output {{ name: "embeddings" data_type: TYPE_FP32 dims: [-1, -1] }}
output {{ name: "valid" data_type: TYPE_BOOL dims: [-1] }}
version_policy {{ all {{}} }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""


def write_repository(release: Release, folder: str | os.PathLike) -> Path:
    """Add a release to a repository; the version of the model is that of the release.

    A version appears when it is complete, so that a Triton that polls the repository can serve it meanwhile. One that
    is there already is replaced.

    Args:
        release: a verified release.
        folder: the repository, which is created if there is none.

    Returns:
        The folder of the version.

    Raises:
        UsageError: `E_MODEL_REPOSITORY` if the model in the repository has another input.
    """
    ((name, info),) = read_signatures(release.path)[DEFAULT].inputs.items()
    config = _CONFIG.format(
        name=MODEL,
        input=name,
        input_type="TYPE_FP32" if name == "vectors" else "TYPE_STRING",
        input_dims=", ".join("-1" for _ in info.tensor_shape.dim),
    )
    model = Path(folder) / MODEL
    model.mkdir(parents=True, exist_ok=True)
    with locked(model):
        remove_leftovers(model)
        _check_config(model / "config.pbtxt", config)
        version, draft = model / str(release.version), model / f"{TEMPORARY}{release.version}"
        shutil.copytree(release.path, draft / "saved_model", ignore=shutil.ignore_patterns("report", "index"))
        shutil.copy(Path(__file__).with_name("triton_model.py"), draft / "model.py")
        flush_folders(draft)
        if version.exists():
            version.rename(model / f"{TEMPORARY}replaced-{release.version}")
        draft.rename(version)
        remove_leftovers(model)
        replace_file(model / "config.pbtxt", config.encode())
    return version


def _check_config(file: Path, config: str) -> None:
    if file.exists() and file.read_text(encoding="utf-8") != config:
        raise UsageError(
            "E_MODEL_REPOSITORY",
            f"Expected a repository whose model has the input of this release. Received: another one in {file}. "
            "Choose another folder",
        )
