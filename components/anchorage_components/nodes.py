"""Shared code of the nodes: executors work on local folders, also if the artifacts are in an object store.

On a disk an executor reads and writes the folders of the artifacts. In an object store it reads copies of its inputs in
the cache, and writes its outputs to temporary folders, which are copied to the store once it ends without an error. So
an artifact in a store is never half of one. Beam's workers must see these folders: those of this machine do.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.types.artifact import Artifact
from tfx.types.value_artifact import ValueArtifact

from anchorage.storage import is_remote, local_input, local_output
from anchorage_components import object_store

E = TypeVar("E", bound=type[BaseExecutor])

_Artifacts = Mapping[str, Sequence[Artifact]]

_NOTHING = ".nothing"  # stands for an empty output, since an object store has no empty folders

_NO_URIS: Mapping[str, str] = MappingProxyType({})
# Of the executor that runs in this thread: the URIs of the artifacts by their local folders, and what follows its end.
_uris: ContextVar[Mapping[str, str]] = ContextVar("uris", default=_NO_URIS)
_afterwards: ContextVar[ExitStack | None] = ContextVar("afterwards", default=None)

object_store.register()


def node(function: Callable | None = None, *, use_beam: bool = False) -> Any:
    """As TFX's decorator `component`, for an executor on local folders."""
    if function is None:
        return functools.partial(node, use_beam=use_beam)
    made = component(use_beam=use_beam)(function)
    on_local_folders(made.EXECUTOR_SPEC.executor_class)
    return made


def on_local_folders(executor: E) -> E:
    """Class decorator of an executor: inside `Do` the URI of each artifact is a local folder."""
    do = executor.Do

    @functools.wraps(do)
    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> Any:
        with _local_folders(input_dict, output_dict):
            result = do(self, input_dict, output_dict, exec_properties)
            for artifacts in result.output_artifacts.values() if result else ():
                for artifact in artifacts.artifacts:
                    artifact.uri = _uris.get().get(artifact.uri, artifact.uri)
            return result

    executor.Do = Do
    return executor


def uri_of(artifact: Artifact) -> str:
    """The URI of an artifact in the metadata, for an executor that records it: `artifact.uri` is a local folder."""
    return _uris.get().get(artifact.uri, artifact.uri)


def once_stored(action: Callable[[], Any]) -> None:
    """Call a function when the outputs of the running executor are where they belong; at once on a disk."""
    if (afterwards := _afterwards.get()) is None:
        action()
    else:
        afterwards.callback(action)


@contextmanager
def _output(uri: str) -> Iterator[Path]:
    with local_output(uri) as folder:
        yield folder
        if not any(folder.iterdir()):
            (folder / _NOTHING).touch()


@contextmanager
def _local_folders(inputs: _Artifacts, outputs: _Artifacts) -> Iterator[None]:
    sides = (inputs, outputs)
    given = [{key: [artifact.uri for artifact in artifacts] for key, artifacts in side.items()} for side in sides]
    if not any(map(is_remote, (uri for side in given for uris in side.values() for uri in uris))):
        yield
        return
    succeeded, afterwards = False, ExitStack()
    local_uris: dict[str, str] = {}
    tokens = _afterwards.set(afterwards), _uris.set(local_uris)
    try:
        with ExitStack() as stack:
            for side, local in zip(sides, (local_input, _output), strict=True):
                for artifact in (each for artifacts in side.values() for each in artifacts):
                    if is_remote(artifact.uri) and not isinstance(artifact, ValueArtifact):  # TFX itself reads a value
                        folder = str(stack.enter_context(local(artifact.uri)))
                        local_uris[folder], artifact.uri = artifact.uri, folder
            yield
        succeeded = True
    finally:
        _afterwards.reset(tokens[0])
        _uris.reset(tokens[1])
        # The executor of a function puts copies of its outputs into the dict.
        for side, uris in zip(sides, given, strict=True):
            for key, artifacts in side.items():
                for artifact, uri in zip(artifacts, uris.get(key, ()), strict=False):
                    artifact.uri = uri
    if succeeded:
        afterwards.close()
