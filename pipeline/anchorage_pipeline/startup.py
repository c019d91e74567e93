"""A short start for the short commands: TensorFlow and Keras without what they would load only to offer it."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Imported by TensorFlow and by Keras where they are installed, for features that `search` and `check` do not use:
# data frames, notebooks, plots, scikit-learn wrappers, cloud TPUs. Together they take as long as TensorFlow itself.
_OF_TENSORFLOW = ("googleapiclient", "scipy")
_OF_KERAS = ("IPython", "matplotlib", "pandas", "sklearn")


def load_tensorflow() -> None:
    """Import TensorFlow without Keras, which it then imports when `tf.keras` is first asked for."""
    with _absent("keras", "h5py", *_OF_TENSORFLOW), _no_collections():
        importlib.import_module("tensorflow")


def load_keras() -> None:
    """Import TensorFlow and Keras."""
    with _absent(*_OF_TENSORFLOW, *_OF_KERAS), _no_collections():
        importlib.import_module("keras")


@contextmanager
def _absent(*modules: str) -> Iterator[None]:
    """Let modules look as if they were not installed, but for those already loaded."""
    hidden = [module for module in modules if module not in sys.modules]
    for module in hidden:
        sys.modules[module] = None  # type: ignore[assignment]  # `import` then raises ModuleNotFoundError
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]


@contextmanager
def _no_collections() -> Iterator[None]:
    """Stop the search for garbage: imports leave none, and looking through half a million new objects takes time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
