"""Releases: model, index and their metadata, published atomically as one version.

A folder of releases is a base path for TensorFlow Serving:

    releases/<version>/   saved_model.pb, variables/, assets/     the model
                          text/                                 the text encoder of an image-text preset
                          index/, gallery.parquet                 the index and its rows
                          thresholds.json, labels.json, report/   the evaluation
                          MODEL_CARD.md                           what the model is for, its metrics and limits
                          manifest.json                           hash and size of every file
    releases/current      the current version; a rollback rewrites this line

This package verifies files before other code loads them, and imports neither
Keras nor TensorFlow.
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
