"""A store of the features of a frozen trunk, for the images of another store and for augmented copies of them.

    original/     record store of vectors `(C,)`, see `anchorage.data.store`
    copy-1/ ...   the same images, augmented

A folder of features appears with all of its stores or not at all.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.disk import check_free_space, disk_trouble
from anchorage.files import TEMPORARY, flush_folder, flush_folders, remove_leftovers


class FeatureStore(RecordStore):
    """Random access to features, and to those of augmented copies.

    Args:
        folder: folder written by `write_features`.

    Attributes:
        copies: number of augmented copies of each image.

    Raises:
        DataError: as `RecordStore`.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__(Path(folder) / "original")
        paths = Path(folder).glob("copy-*")
        self._variants: list[RecordStore] = [RecordStore(path) for path in sorted(paths, key=_number)]

    @property
    def copies(self) -> int:
        return len(self._variants)

    def read_copies(self, rows: Sequence[int] | np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Read the features `(n, C)` float32 of `rows` (n,), each of the copy with this number, 0 for the original."""
        rows, found = np.asarray(rows, np.int64), np.empty((len(rows), *self.spec.shape), self.spec.dtype)
        for number, store in enumerate([self, *self._variants]):
            chosen = np.flatnonzero(numbers == number)
            found[chosen] = store.read(rows[chosen])
        return found


def write_features(
    folder: Path, spec: RecordSpec, copies: int, count: int, embed: Callable[[int], Iterable[Record]]
) -> None:
    """Write the features of `count` images; the folder appears once all of them are on the disk.

    Args:
        folder: where to; another process that writes the same may come first.
        spec: dimension of the features.
        copies: number of augmented copies.
        count: number of images.
        embed: gives the records of a copy by its number, 0 for the originals.

    Raises:
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`.
    """
    needed = (1 + copies) * count * spec.bytes
    with disk_trouble(folder, needed):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder.parent)
        check_free_space(folder, needed)
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{folder.name}-", dir=folder.parent))
        try:
            for number in range(1 + copies):
                write_store(temporary / (f"copy-{number}" if number else "original"), embed(number), spec)
            flush_folders(temporary)
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            temporary.rename(folder)
            flush_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("copy-"))
