"""Places: stretches of land on a satellite picture and two relief maps of the Earth; a class is one place."""

from anchorage_pipeline.datasets.places.build import build_places

__all__ = ["build_places"]
