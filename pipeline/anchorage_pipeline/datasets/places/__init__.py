"""Places: views of the Earth's land on a satellite image and two relief maps; a class is a place."""

from anchorage_pipeline.datasets.places.build import build_places

__all__ = ["build_places"]
