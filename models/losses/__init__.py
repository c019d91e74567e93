"""Losses by the name an experiment file uses; each is a layer `loss(embeddings, labels) -> scalar`."""

from typing import Any

import keras

from models.losses._keras_loss import KerasLoss, is_keras_loss
from models.losses.angular import AngularLoss
from models.losses.arcface import ArcFaceLoss
from models.losses.balanced_contrastive import BalancedContrastiveLoss
from models.losses.binomial_deviance import BinomialDevianceLoss
from models.losses.cbml import CBMLLoss
from models.losses.circle import CircleLoss
from models.losses.contrastive import ContrastiveLoss
from models.losses.cosface import CosFaceLoss
from models.losses.cross_batch_memory import CrossBatchMemoryLoss
from models.losses.dynamic_soft_margin import DynamicSoftMarginLoss
from models.losses.ensemble import EnsembleLoss
from models.losses.fast_ap import FastAPLoss
from models.losses.general_pair_weighting import GeneralPairWeightingLoss
from models.losses.generalized_lifted_structure import GeneralizedLiftedStructureLoss
from models.losses.histogram import HistogramLoss
from models.losses.hybrid import HybridLoss
from models.losses.instance import InstanceLoss
from models.losses.intra_pair_variance import IntraPairVarianceLoss
from models.losses.lifted_structure import LiftedStructureLoss
from models.losses.manifold import ManifoldLoss
from models.losses.margin import MarginLoss
from models.losses.mined import MinedLoss
from models.losses.multi_proxy_anchor import MultiProxyAnchorLoss
from models.losses.multi_similarity import MultiSimilarityLoss
from models.losses.n_pair import NPairLoss
from models.losses.nca import NCALoss
from models.losses.nivmf import NivMFLoss
from models.losses.nt_xent import NTXentLoss
from models.losses.p2s_grad import P2SGradLoss
from models.losses.pce import PCELoss
from models.losses.pnp import PNPLoss
from models.losses.proxy_nca import ProxyNCALoss
from models.losses.ranked_list import RankedListLoss
from models.losses.regularized import RegularizedLoss
from models.losses.roadmap import RoadmapLoss
from models.losses.self_supervised import SelfSupervisedLoss
from models.losses.smooth_ap import SmoothAPLoss
from models.losses.soft_triple import SoftTripleLoss
from models.losses.softmax import SoftmaxLoss
from models.losses.soprc import SOPRCLoss
from models.losses.spce import SPCELoss
from models.losses.sphereface import SphereFaceLoss
from models.losses.sup_con import SupConLoss
from models.losses.threshold_consistent_margin import ThresholdConsistentMarginLoss
from models.losses.triplet import TripletLoss
from models.losses.tuplet_margin import TupletMarginLoss
from models.losses.vicreg import VICRegLoss
from models.registry import create, find_class

LOSSES: dict[str, type[keras.layers.Layer]] = {
    "angular": AngularLoss,
    "arcface": ArcFaceLoss,
    "balanced_contrastive": BalancedContrastiveLoss,
    "binomial_deviance": BinomialDevianceLoss,
    "cbml": CBMLLoss,
    "circle": CircleLoss,
    "contrastive": ContrastiveLoss,
    "cosface": CosFaceLoss,
    "cross_batch_memory": CrossBatchMemoryLoss,
    "dynamic_soft_margin": DynamicSoftMarginLoss,
    "ensemble": EnsembleLoss,
    "fast_ap": FastAPLoss,
    "general_pair_weighting": GeneralPairWeightingLoss,
    "generalized_lifted_structure": GeneralizedLiftedStructureLoss,
    "histogram": HistogramLoss,
    "hybrid": HybridLoss,
    "instance": InstanceLoss,
    "intra_pair_variance": IntraPairVarianceLoss,
    "lifted_structure": LiftedStructureLoss,
    "manifold": ManifoldLoss,
    "margin": MarginLoss,
    "mined": MinedLoss,
    "multi_proxy_anchor": MultiProxyAnchorLoss,
    "multi_similarity": MultiSimilarityLoss,
    "n_pair": NPairLoss,
    "nca": NCALoss,
    "nivmf": NivMFLoss,
    "nt_xent": NTXentLoss,
    "p2s_grad": P2SGradLoss,
    "pce": PCELoss,
    "pnp": PNPLoss,
    "proxy_nca": ProxyNCALoss,
    "ranked_list": RankedListLoss,
    "regularized": RegularizedLoss,
    "roadmap": RoadmapLoss,
    "self_supervised": SelfSupervisedLoss,
    "smooth_ap": SmoothAPLoss,
    "soft_triple": SoftTripleLoss,
    "softmax": SoftmaxLoss,
    "soprc": SOPRCLoss,
    "spce": SPCELoss,
    "sphereface": SphereFaceLoss,
    "sup_con": SupConLoss,
    "threshold_consistent_margin": ThresholdConsistentMarginLoss,
    "triplet": TripletLoss,
    "tuplet_margin": TupletMarginLoss,
    "vicreg": VICRegLoss,
}


def create_loss(name: str, params: dict[str, Any] | None = None, **facts: Any) -> keras.layers.Layer:
    """Make a loss; `facts` such as `num_classes` go to the losses that ask for them.

    Args:
        name: a key of `LOSSES`, or `"package.module:ClassName"` of a Keras layer or of a `keras.losses.Loss`, such
            as `"tensorflow_similarity.losses:CircleLoss"`.
        params: constructor arguments.
        **facts: what only the data knows: `num_classes`, `class_counts`, `embedding_size`.

    Raises:
        UsageError: on an unknown name or parameter, or a missing one.
        ValueError: if the constructor refuses a value.
    """
    if is_keras_loss(name):
        return KerasLoss(name, params)
    return create(LOSSES, name, params, facts, base=keras.layers.Layer)


def find_loss(name: str) -> type:
    """The class of a loss: a Keras layer, or a `keras.losses.Loss`.

    Raises:
        UsageError: E_NAME_UNKNOWN, with the name that may have been meant.
    """
    return find_class(LOSSES, name, keras.losses.Loss if is_keras_loss(name) else keras.layers.Layer)
