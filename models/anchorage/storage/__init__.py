"""Files on this machine or in an object store: `s3://BUCKET/PATH`, `gs://BUCKET/PATH`.

Credentials and endpoint come from where the client of the store takes them: of boto3 (extra `s3`), `AWS_*` variables,
`~/.aws` and the role of the machine; of google-cloud-storage (extra `gs`), `GOOGLE_APPLICATION_CREDENTIALS`, what
`gcloud` has stored, and the service account of the machine. A client is imported at the first use of a URI.
"""

from anchorage.storage.addresses import check_names, is_remote, join, matches, parent, split_pattern
from anchorage.storage.cache import Copy, local_input, local_output
from anchorage.storage.faults import LostRaceError, MissingObjectError
from anchorage.storage.folders import download, upload
from anchorage.storage.objects import (
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
from anchorage.storage.stores import Entry

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
