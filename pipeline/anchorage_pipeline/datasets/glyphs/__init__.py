"""Glyphs: characters of several scripts in sixty font families; a class is a character, an image one font."""

from anchorage_pipeline.datasets.glyphs.build import build_glyphs

__all__ = ["build_glyphs"]
