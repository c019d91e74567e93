"""Versions of the libraries that a release and its numbers depend on."""

from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = ("tensorflow-cpu", "tensorflow", "keras", "scann", "numpy", "pyarrow")


def library_versions() -> dict[str, str]:
    """Installed versions by name, found without importing the libraries."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
