"""Fast imports of TensorFlow and Keras for short commands, without their optional dependencies."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# TensorFlow and Keras import these packages if they are installed, for features that `search` and `check` do not use:
# data frames, notebooks, plots, scikit-learn wrappers, cloud TPUs. They take as long to import as TensorFlow itself.
_OF_TENSORFLOW = ("googleapiclient", "scipy")
_OF_KERAS = ("IPython", "matplotlib", "pandas", "sklearn")


def load_tensorflow() -> None:
    """Import TensorFlow without Keras, which is then imported on the first access to `tf.keras`."""
    with _hidden("keras", "h5py", *_OF_TENSORFLOW), _no_garbage_collection():
        importlib.import_module("tensorflow")


def load_keras() -> None:
    """Import TensorFlow and Keras."""
    with _hidden(*_OF_TENSORFLOW, *_OF_KERAS), _no_garbage_collection():
        importlib.import_module("keras")


@contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """Make modules appear not installed, except those already imported."""
    hidden = [module for module in modules if module not in sys.modules]
    for module in hidden:
        sys.modules[module] = None  # type: ignore[assignment]  # `import` then raises ModuleNotFoundError
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause garbage collection: imports leave no garbage, and scanning half a million new objects takes time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
