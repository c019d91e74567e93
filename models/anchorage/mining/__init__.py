"""Miners: which pairs of a batch count. `MINERS` holds those that the losses `mined` and `cross_batch_memory` take."""

from typing import Any

_PLACES = {
    "angular": "AngularMiner",
    "batch_easy_hard": "BatchEasyHardMiner",
    "distance_weighted": "DistanceWeightedMiner",
    "hdc": "HDCMiner",
    "multi_similarity": "MultiSimilarityMiner",
    "pair_margin": "PairMarginMiner",
    "triplet_margin": "TripletMarginMiner",
    "uniform_histogram": "UniformHistogramMiner",
}


def __getattr__(name: str) -> Any:
    if name == "MINERS":  # not at import: the losses need parts of this package while it loads
        from anchorage.mining import pairs

        return {key: getattr(pairs, value) for key, value in _PLACES.items()}
    raise AttributeError(name)
