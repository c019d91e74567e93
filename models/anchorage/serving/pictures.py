"""Paths of the pictures of a gallery."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from anchorage.data.tables import ATTRIBUTE, PATH
from anchorage.retrieval.table import read_ids

if TYPE_CHECKING:
    import numpy as np

    from anchorage.release import Release


def picture_paths(release: "Release", gallery: "Mapping[str, np.ndarray] | None" = None) -> dict[str, str]:
    """Map ids to the paths of their pictures below the folder of the data, where the id is not the path itself.

    Args:
        release: a release; only one of vectors can have ids besides paths.
        gallery: columns of its gallery, from `read_ids`; None reads them if needed.
    """
    if release.facts.get("experiment", {}).get("data", {}).get("input") != "vectors":
        return {}
    gallery = read_ids(release.gallery_path) if gallery is None else gallery
    paths = gallery.get(f"{ATTRIBUTE}{PATH}")
    if paths is None:
        return {}
    return {id_: path for id_, path in zip(gallery["id"].tolist(), paths.tolist(), strict=True) if path}
