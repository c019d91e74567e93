"""Miners, which select the pairs of a batch that enter a loss. `mined` and `cross_batch_memory` accept `MINERS`."""

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
