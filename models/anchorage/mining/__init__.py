"""Miners: which pairs of a batch count. `MINERS` holds those that the losses `mined` and `cross_batch_memory` take."""

from anchorage.mining.miners import (
    AngularMiner,
    BatchEasyHardMiner,
    DistanceWeightedMiner,
    HDCMiner,
    MultiSimilarityMiner,
    PairMarginMiner,
    TripletMarginMiner,
    UniformHistogramMiner,
)

MINERS = {
    "angular": AngularMiner,
    "batch_easy_hard": BatchEasyHardMiner,
    "distance_weighted": DistanceWeightedMiner,
    "hdc": HDCMiner,
    "multi_similarity": MultiSimilarityMiner,
    "pair_margin": PairMarginMiner,
    "triplet_margin": TripletMarginMiner,
    "uniform_histogram": UniformHistogramMiner,
}

__all__ = [
    "MINERS",
    "AngularMiner",
    "BatchEasyHardMiner",
    "DistanceWeightedMiner",
    "HDCMiner",
    "MultiSimilarityMiner",
    "PairMarginMiner",
    "TripletMarginMiner",
    "UniformHistogramMiner",
]
