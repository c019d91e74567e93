"""The icon-retrieval data set, built from pinned icon packages."""

from anchorage_pipeline.datasets.icons.build import build_icons

__all__ = ["build_icons"]
