"""Versions of the libraries that a release depends on."""

from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = ("tensorflow-cpu", "tensorflow", "keras", "scann", "numpy", "pyarrow")


def library_versions() -> dict[str, str]:
    """Return the installed versions by name, without importing the libraries."""
    installed = {}
    for name in _LIBRARIES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
