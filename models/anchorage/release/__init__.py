"""Releases: model, index and what belongs to them as one version, published whole or not at all.

A folder of releases is a TF Serving base path:

    releases/<version>/   saved_model.pb, variables/, assets/     the model
                          index/, gallery.parquet                 what it is searched with
                          thresholds.json, labels.json, report/   what is known about it
                          manifest.json                           hash and size of every file
    releases/current      the version in use; rolling back rewrites this one line

Nothing here loads a model or an index: the functions check the files before any
library opens them, and import neither Keras nor TensorFlow.
"""

from anchorage.release.baseline import find_baseline
from anchorage.release.fingerprint import fingerprint_model
from anchorage.release.publishing import publish_release, roll_back
from anchorage.release.reading import Release, ReleaseSummary, current_version, list_releases, open_release

__all__ = [
    "Release",
    "ReleaseSummary",
    "current_version",
    "find_baseline",
    "fingerprint_model",
    "list_releases",
    "open_release",
    "publish_release",
    "roll_back",
]
