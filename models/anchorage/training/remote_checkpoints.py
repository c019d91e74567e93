"""Checkpoints in an object store, from which a training resumes on any machine."""

from pathlib import Path

import keras

from anchorage.data.batches import Sampler
from anchorage.storage import delete_tree, download, join, list_files, upload
from anchorage.training.checkpoints import STATE, Checkpoints, Progress


class RemoteCheckpoints(Checkpoints):
    """Checkpoints in a folder of this machine, each of which is copied to an object store when it is complete.

    Of a checkpoint `state.json` is copied last, so that one without it is unfinished and is ignored. Older checkpoints
    are deleted once the new one is complete.

    Args:
        uri: folder of the object store, whose complete checkpoints are copied to this machine.
        folder: empty folder of this machine.
        run_key: as for `Checkpoints`.
        sampler: as for `Checkpoints`.
    """

    def __init__(self, uri: str, folder: str | Path, run_key: str = "", sampler: Sampler | None = None):
        super().__init__(folder, run_key, sampler)
        self._uri = uri
        names = list_files(uri)
        for step in {name.partition("/")[0] for name in names if name.endswith(f"/{STATE}")}:
            download(join(uri, step), self.folder / step)

    def save(self, learner: keras.Model, progress: Progress) -> Path:
        """Write and copy a checkpoint, then delete those no longer needed.

        Raises:
            ResourceError: E_DISK_FULL, E_NOT_WRITABLE, E_OBJECT_STORE; earlier checkpoints are kept.
        """
        target = super().save(learner, progress)
        upload(target, join(self._uri, target.name), last=STATE)
        kept = {path.name for path in self.folder.iterdir()}
        for name in {name.partition("/")[0] for name in list_files(self._uri)} - kept:
            delete_tree(join(self._uri, name))
        return target

    def __str__(self) -> str:
        return self._uri
