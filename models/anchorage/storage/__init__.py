"""Files on this machine or in an object store: `s3://BUCKET/PATH`.

Credentials and endpoint come from where boto3 takes them: `AWS_*` variables, `~/.aws`, the role of the machine;
`AWS_ENDPOINT_URL` names another server than Amazon's. boto3 (extra `s3`) is imported at the first use of a URI.
"""

from anchorage.storage.addresses import check_names, is_object, is_remote, join, matches, parent, split_pattern
from anchorage.storage.cache import Copy, local_input, local_output
from anchorage.storage.faults import LostRaceError, MissingObjectError
from anchorage.storage.folders import download, upload
from anchorage.storage.objects import (
    Entry,
    delete,
    delete_tree,
    exists,
    find_object,
    list_files,
    list_folders,
    read_bytes,
    read_object,
    write_bytes,
)

__all__ = [
    "Copy",
    "Entry",
    "LostRaceError",
    "MissingObjectError",
    "check_names",
    "delete",
    "delete_tree",
    "download",
    "exists",
    "find_object",
    "is_object",
    "is_remote",
    "join",
    "list_files",
    "list_folders",
    "local_input",
    "local_output",
    "matches",
    "parent",
    "read_bytes",
    "read_object",
    "split_pattern",
    "upload",
    "write_bytes",
]
