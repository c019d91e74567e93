"""A pipeline of two nodes that write and pass on the name of its owner, to see whose artifacts a run was given."""

import time
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.orchestration.pipeline import Pipeline
from tfx.types.standard_artifacts import Model

from anchorage_components.nodes import node


@node
def write_owner(text: OutputArtifact[Model], owner: Parameter[str]):
    _write(text.uri, owner)
    time.sleep(0.5)  # so that runs overlap


@node
def pass_on(text: InputArtifact[Model], copy: OutputArtifact[Model], owner: Parameter[str]):
    value = (Path(text.uri) / "owner.txt").read_text()
    assert value == owner
    _write(copy.uri, value)


def owned_pipeline(root: str | Path, owner: str, connection) -> Pipeline:
    """The pipeline, named "shop" for every owner.

    Args:
        root: path or URI of the folder of its artifacts.
        owner: what its nodes write.
        connection: connection config of ML Metadata.
    """
    first = write_owner(owner=owner)
    second = pass_on(text=first.outputs["text"], owner=owner)
    return Pipeline("shop", str(root), components=[first, second], metadata_connection_config=connection)


def _write(folder: str, text: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "owner.txt").write_text(text)
