"""The reader of foreign weights: tensors come out right, and nothing else comes out at all."""

import hashlib
import io
import pickle
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest

from anchorage.encoders.checkpoint import read_torch_weights
from anchorage.errors import DataError


class Tensor:
    """Pickles as a PyTorch tensor over a part of a storage."""

    def __init__(self, key, offset, shape, strides):
        self.arguments = (Storage(key), offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class Storage:
    def __init__(self, key):
        self.key = key


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Writes a file of the old format: `write(tensors, storages)` gives path and hash."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    exec("def _rebuild_tensor_v2(*arguments): pass", utils.__dict__)
    for module in (torch, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def write(tensors, storages, keys=None):
        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                if isinstance(value, Storage):
                    return "storage", torch.FloatStorage, value.key, "cpu", len(storages[value.key]), None
                return None

        buffer = io.BytesIO()
        for part in (0x1950A86A20F9469CFC6C, 1001, {}, tensors, keys or list(storages)):
            Pickler(buffer, protocol=2).dump(part)
        for values in storages.values():
            buffer.write(len(values).to_bytes(8, "little") + np.asarray(values, "<f4").tobytes())
        return put(tmp_path / "weights.pth", buffer.getvalue())

    return write


def put(path, data):
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def test_tensors_are_views_with_their_own_strides(write):
    storages = {"a": range(10), "b": [0.5]}
    tensors = OrderedDict(
        plain=Tensor("a", 0, (2, 3), (3, 1)),
        turned=Tensor("a", 4, (3, 2), (1, 3)),
        one=Tensor("b", 0, (), ()),
        none=Tensor("b", 0, (0, 4), (4, 1)),
    )
    found = read_torch_weights(*write(tensors, storages))
    assert list(found) == ["plain", "turned", "one", "none"]
    np.testing.assert_array_equal(found["plain"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["turned"], [[4, 7], [5, 8], [6, 9]])
    np.testing.assert_array_equal(found["one"], 0.5)
    assert found["none"].shape == (0, 4)


def test_the_hash_is_compared_first(tmp_path):
    path, _ = put(tmp_path / "weights.pth", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"E_WEIGHTS_HASH: .* expected SHA-256 00\. Received: "):
        read_torch_weights(path, "00")
    with pytest.raises(DataError, match="E_WEIGHTS_MISSING"):
        read_torch_weights(tmp_path / "absent.pth", "00")


@pytest.mark.parametrize(
    ("name", "program"),
    [
        ("os.system", b"cos\nsystem\n(S'touch ran'\ntR."),
        ("builtins.eval", b"cbuiltins\neval\n(S'1'\ntR."),
        ("torch.load", b"ctorch\nload\n(S'1'\ntR."),
        ("numpy._core.multiarray._reconstruct", pickle.dumps(np.zeros(3), protocol=2)),
    ],
)
def test_anything_but_tensors_is_refused(tmp_path, monkeypatch, name, program):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"E_WEIGHTS_REFUSED: The file asks for {name}"):
        read_torch_weights(*put(tmp_path / "weights.pth", program))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize(
    "tensor", [Tensor("a", 0, (3, 3), (3, 1)), Tensor("a", -1, (2,), (1,)), Tensor("a", 7, (2,), (-1,))]
)
def test_a_tensor_past_its_storage_is_refused(write, tensor):
    with pytest.raises(DataError, match=r"E_WEIGHTS_DAMAGED: .* reaches past its storage of 8 numbers"):
        read_torch_weights(*write({"tensor": tensor}, {"a": range(8)}))


def test_a_cut_file_is_damaged(write, tmp_path):
    path, _ = write({"tensor": Tensor("a", 0, (8,), (1,))}, {"a": range(8)})
    data = path.read_bytes()
    for length in (0, 5, len(data) // 2, len(data) - 1):
        with pytest.raises(DataError, match="E_WEIGHTS_DAMAGED"):
            read_torch_weights(*put(tmp_path / "cut.pth", data[:length]))


def test_only_a_flat_dictionary_of_tensors(write):
    with pytest.raises(DataError, match=r"E_WEIGHTS_DAMAGED: .* expected a flat dictionary"):
        read_torch_weights(*write({"epoch": 7}, {"a": [1]}))
