"""Reads the weights of a PyTorch checkpoint of the legacy format, without PyTorch and without running code in it.

The format is a sequence of pickles (magic number, version, facts about the machine, tensors, keys of their storages)
followed by the raw numbers of each storage. A pickle can call any function: this reader allows only those that rebuild
tensors.
"""

import hashlib
import io
import pickle  # only through the restricted reader below
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from anchorage.errors import DataError

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
}


def read_torch_weights(path: str | Path, sha256: str) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name.

    Args:
        path: checkpoint in the format of PyTorch before 1.6, with one flat dictionary of tensors.
        sha256: expected hash of the file, in hex; compared before the file is parsed.

    Raises:
        DataError: E_WEIGHTS_MISSING, E_WEIGHTS_HASH, E_WEIGHTS_REFUSED if the file names anything but tensors, or
            E_WEIGHTS_DAMAGED.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError("E_WEIGHTS_MISSING", f"Expected a file of weights at {path}. Received: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError("E_WEIGHTS_HASH", f"{path}: expected SHA-256 {sha256}. Received: {found}. Install it again.")
    try:
        return _read(io.BytesIO(data), len(data))
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise DataError("E_WEIGHTS_DAMAGED", f"{path} cannot be read as weights: {error}") from error


def _read(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    magic, version = (_Reader(file, {}, size).load() for _ in range(2))
    if magic != _MAGIC or version != 1001:
        raise ValueError(f"expected magic number {_MAGIC:x} and version 1001, received {magic!r} and {version!r}")
    _Reader(file, {}, size).load()  # sizes of C types, not needed
    storages: dict[str, np.ndarray] = {}
    tensors = _Reader(file, storages, size).load()
    if not isinstance(tensors, dict) or not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise ValueError("expected a flat dictionary of tensors")
    for key in _Reader(file, {}, size).load():
        storage = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != len(storage):
            raise ValueError(f"storage {key} should hold {len(storage)} numbers, has {count}")
        storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)  # the tensors are views of it
    return {str(name): np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}


class _Reader(pickle.Unpickler):
    """An unpickler for tensors only; storages are filled afterwards."""

    def __init__(self, file: BinaryIO, storages: dict[str, np.ndarray], limit: int):
        super().__init__(file)
        self._storages, self._limit = storages, limit

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise DataError("E_WEIGHTS_REFUSED", f"The file asks for {module}.{name}, which no file of weights needs.")

    def persistent_load(self, description: Any) -> np.ndarray:
        kind, dtype, key, _device, count, view = description
        if kind != "storage" or view is not None or not 0 <= count * dtype.itemsize <= self._limit:
            raise ValueError(f"unknown storage {description!r}")
        return self._storages.setdefault(key, np.empty(count, dtype))


def _view(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """A tensor over part of a storage, as `torch._utils._rebuild_tensor_v2` makes it."""
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or last >= len(storage):
        raise ValueError(f"a tensor of shape {shape} reaches past its storage of {len(storage)} numbers")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)
