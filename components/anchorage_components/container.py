"""The process of a node on Kubeflow: TFX's own entry point, with the artifacts on the shared volume or in a bucket.

Kubeflow Pipelines gives outputs URIs in its object store (`minio://`, `s3://`, `gs://`) and copies what a container
leaves below `/minio`, `/s3` or `/gcs`. Nodes rename, lock and map files, so each output gets the folder on the shared
volume, or below a URI of a bucket, that corresponds to its URI. The node reports this folder, and Kubeflow hands it to
later nodes as it is.

    python -m anchorage_components.container --artifacts /mnt/anchorage/artifacts/NAME <arguments of TFX>
"""

import importlib
import json
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from anchorage.errors import AnchorageError, causes
from anchorage.storage import delete_tree, is_remote
from anchorage_components.beam.options import IMAGE, NO_IMAGE

_TFX = "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"
_VALUE = "title: tfx.String"
_INVOCATION = "--json_serialized_invocation_args"


def main(arguments: Sequence[str]) -> int:
    """Run a node; returns the exit status, which distinguishes a rejected candidate (5) from other errors."""
    if len(arguments) < 4 or arguments[0] != "--artifacts" or _INVOCATION not in arguments:
        print(f"anchorage: expected --artifacts FOLDER and the arguments of {_TFX}", file=sys.stderr)
        return 2
    _, folder, *rest = arguments
    place = rest.index(_INVOCATION) + 1
    invocation = place_outputs(json.loads(rest[place]), folder)
    _make_outputs(invocation, folder)
    rest[place] = json.dumps(invocation)
    if not any(each.startswith(IMAGE) for each in rest):
        rest.append(NO_IMAGE)  # TFX takes the name of the program for an option of Beam
    importlib.import_module("anchorage_components.nodes")  # TFX reads the inputs before it imports the node
    sys.argv = [_TFX, *rest]
    try:
        runpy.run_module(_TFX, run_name="__main__", alter_sys=True)
    except Exception as error:
        own = next((cause for cause in causes(error) if isinstance(cause, AnchorageError)), None)
        if own is None:
            raise
        print(f"anchorage: {own}", file=sys.stderr)
        return own.exit_status
    return 0


def place_outputs(invocation: dict, folder: str) -> dict:
    """The executor input of Kubeflow with output artifacts in `folder` instead of in an object store."""
    for artifacts in invocation.get("outputs", {}).get("artifacts", {}).values():
        for artifact in artifacts["artifacts"]:
            scheme, mark, path = artifact["uri"].partition("://")
            if mark:
                artifact["uri"] = f"{folder}/{scheme}/{path.partition('?')[0]}"
    return invocation


def _make_outputs(invocation: dict, folder: str) -> None:
    """Make empty folders for the outputs, as TFX does elsewhere; a retry has those of the killed attempt."""
    for artifacts in invocation.get("outputs", {}).get("artifacts", {}).values():
        for artifact in artifacts["artifacts"]:
            uri, path = artifact["uri"], Path(artifact["uri"])
            if is_remote(uri):
                delete_tree(uri)
                continue
            if Path(folder) not in path.parents:
                continue
            shutil.rmtree(path, ignore_errors=True)
            is_value = _VALUE in artifact.get("type", {}).get("instanceSchema", "")  # a file, which TFX writes
            (path.parent if is_value else path).mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
