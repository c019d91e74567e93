"""Folders of artifacts, which TFX names by the ids of executions."""

from os import PathLike, fspath
from pathlib import Path

from anchorage.storage import is_remote, list_files


def last_execution(artifacts: str | PathLike) -> int:
    """The highest execution id among the folders of artifacts; 0 if there are none."""
    if is_remote(artifacts):
        folders = [parts[2] for name in list_files(fspath(artifacts)) if len(parts := name.split("/")) > 3]
    else:
        folders = [folder.name for folder in Path(artifacts).glob("*/*/*")]
    names = [folder.partition(".")[0] for folder in folders]
    return max((int(name) for name in names if name.isdecimal()), default=0)
