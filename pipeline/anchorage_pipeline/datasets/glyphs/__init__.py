"""Glyphs: characters of several scripts out of sixty font families, each class one character, each image one font."""

from anchorage_pipeline.datasets.glyphs.build import build_glyphs

__all__ = ["build_glyphs"]
