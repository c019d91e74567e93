"""Names of the versions, and of the pointer to the current one, in a folder of releases."""

from anchorage.release.manifest import LAST_VERSION

POINTER = "current"

_LONGEST = len(str(LAST_VERSION))


def whole_number(text: str) -> int:
    """Convert decimal digits to an integer; raise `ValueError` for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST):
        raise ValueError(f"{text[:40]!r}")
    return int(text)


def numbers(names: list[str]) -> list[int]:
    """Return the names that are version numbers as such."""
    return [int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= _LONGEST]
