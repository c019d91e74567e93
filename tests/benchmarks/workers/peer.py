# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "pytorch-metric-learning==2.9.0"]
# ///
"""Steps of pytorch-metric-learning's losses on one thread, for `tests/benchmarks/losses.py`."""

import sys

import numpy as np
import torch
from memory import cap_data
from pytorch_metric_learning import distances, losses, miners, regularizers
from serve import serve


def mined(loss, miner):
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


def without_labels(loss):
    return lambda embeddings, labels: loss(embeddings)


def two_views(loss):
    """The first two rows of every label are the two views, as in this project's batches."""
    return lambda embeddings, labels: loss(embeddings[0::2], ref_emb=embeddings[1::2])


# Functions (embeddings, labels) -> loss for C classes of D-dimensional vectors, by the name of the case.
PEERS = {
    "angular": lambda c, d: losses.AngularLoss(),
    "arcface": lambda c, d: losses.ArcFaceLoss(c, d),
    "arcface, 3 sub-centers": lambda c, d: losses.SubCenterArcFaceLoss(num_classes=c, embedding_size=d, sub_centers=3),
    "circle": lambda c, d: losses.CircleLoss(),
    "contrastive": lambda c, d: losses.ContrastiveLoss(),
    "contrastive, snr": lambda c, d: losses.SignalToNoiseRatioContrastiveLoss(),
    "cosface": lambda c, d: losses.CosFaceLoss(c, d),
    "cross_batch_memory": lambda c, d: losses.CrossBatchMemory(losses.ContrastiveLoss(), d, memory_size=2048),
    "dynamic_soft_margin": lambda c, d: losses.DynamicSoftMarginLoss(),
    "fast_ap": lambda c, d: losses.FastAPLoss(),
    "general_pair_weighting": lambda c, d: losses.MultiSimilarityLoss(),
    "generalized_lifted_structure": lambda c, d: losses.GeneralizedLiftedStructureLoss(),
    "histogram": lambda c, d: losses.HistogramLoss(),
    "instance": lambda c, d: losses.InstanceLoss(),
    "intra_pair_variance": lambda c, d: losses.IntraPairVarianceLoss(),
    "lifted_structure": lambda c, d: losses.LiftedStructureLoss(),
    "manifold": lambda c, d: without_labels(losses.ManifoldLoss(d)),
    "margin": lambda c, d: mined(losses.MarginLoss(), miners.DistanceWeightedMiner()),
    "margin, all pairs": lambda c, d: losses.MarginLoss(),
    "mined": lambda c, d: mined(losses.ContrastiveLoss(), miners.MultiSimilarityMiner()),
    "multi_proxy_anchor, 1 proxy": lambda c, d: losses.ProxyAnchorLoss(c, d),
    "multi_similarity": lambda c, d: mined(losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()),
    "n_pair": lambda c, d: losses.NPairsLoss(),
    "n_pair, 2 of a class": lambda c, d: losses.NPairsLoss(),
    "nca": lambda c, d: losses.NCALoss(),
    "nt_xent": lambda c, d: losses.NTXentLoss(),
    "p2s_grad": lambda c, d: losses.P2SGradLoss(num_classes=c, descriptors_dim=d),
    "pnp": lambda c, d: losses.PNPLoss(),
    "proxy_nca": lambda c, d: losses.ProxyNCALoss(c, d),
    "ranked_list": lambda c, d: losses.RankedListLoss(margin=0.4, Tn=10),
    "regularized": lambda c, d: losses.NormalizedSoftmaxLoss(c, d, embedding_regularizer=regularizers.LpRegularizer()),
    "self_supervised": lambda c, d: two_views(losses.SelfSupervisedLoss(losses.NTXentLoss())),
    "smooth_ap": lambda c, d: losses.SmoothAPLoss(),
    "soft_triple": lambda c, d: losses.SoftTripleLoss(c, d),
    "soft_triple, 2 centers": lambda c, d: losses.SoftTripleLoss(c, d, centers_per_class=2),
    "softmax, normalised": lambda c, d: losses.NormalizedSoftmaxLoss(c, d),
    "sphereface": lambda c, d: losses.SphereFaceLoss(c, d),
    "sup_con": lambda c, d: losses.SupConLoss(),
    "threshold_consistent_margin": lambda c, d: losses.ThresholdConsistentMarginLoss(),
    "triplet": lambda c, d: losses.TripletMarginLoss(),
    "triplet, batch_hard": lambda c, d: mined(losses.TripletMarginLoss(), miners.BatchHardMiner()),
    "triplet, semi_hard": lambda c, d: mined(
        losses.TripletMarginLoss(), miners.TripletMarginMiner(type_of_triplets="semihard")
    ),
    "triplet, smooth": lambda c, d: losses.TripletMarginLoss(smooth_loss=True),
    "triplet, squared": lambda c, d: losses.TripletMarginLoss(distance=distances.LpDistance(power=2)),
    "tuplet_margin": lambda c, d: losses.TupletMarginLoss(),
    "vicreg": lambda c, d: two_views(losses.VICRegLoss()),
}


def prepare(order):
    batch = np.load(order["batch"])
    embeddings = torch.tensor(batch["embeddings"], requires_grad=True)
    labels = torch.tensor(batch["labels"], dtype=torch.int64)
    torch.manual_seed(0)
    loss = PEERS[order["case"]](order["classes"], embeddings.shape[1])
    weights = list(loss.parameters()) if isinstance(loss, torch.nn.Module) else []

    def step():
        if hasattr(loss, "hist_"):
            loss.hist_ = loss.hist_.detach()  # it refers to the graph of the last step, which is freed
        for tensor in (embeddings, *weights):
            tensor.grad = None
        value = loss(embeddings, labels)
        value.backward()
        return value

    return step


if __name__ == "__main__":
    torch.set_num_threads(1)
    cap_data(int(float(sys.argv[1]) * 2**30))
    serve(prepare, PEERS)
