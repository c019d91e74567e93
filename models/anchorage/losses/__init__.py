"""Losses by the name an experiment file uses; each is a layer `loss(embeddings, labels) -> scalar`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras

from anchorage.losses._keras_loss import KerasLoss, is_keras_loss
from anchorage.losses.angular import AngularLoss
from anchorage.losses.arcface import ArcFaceLoss
from anchorage.losses.balanced_contrastive import BalancedContrastiveLoss
from anchorage.losses.base import LossLayer
from anchorage.losses.binomial_deviance import BinomialDevianceLoss
from anchorage.losses.cbml import CBMLLoss
from anchorage.losses.circle import CircleLoss
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.losses.cosface import CosFaceLoss
from anchorage.losses.cross_batch_memory import CrossBatchMemoryLoss
from anchorage.losses.dynamic_soft_margin import DynamicSoftMarginLoss
from anchorage.losses.ensemble import EnsembleLoss
from anchorage.losses.fast_ap import FastAPLoss
from anchorage.losses.general_pair_weighting import GeneralPairWeightingLoss
from anchorage.losses.generalized_lifted_structure import GeneralizedLiftedStructureLoss
from anchorage.losses.histogram import HistogramLoss
from anchorage.losses.hybrid import HybridLoss, PrintedMultiSimilarityLoss
from anchorage.losses.instance import InstanceLoss
from anchorage.losses.intra_pair_variance import IntraPairVarianceLoss
from anchorage.losses.lifted_structure import LiftedStructureLoss
from anchorage.losses.manifold import ManifoldLoss
from anchorage.losses.margin import MarginLoss
from anchorage.losses.mined import MinedLoss
from anchorage.losses.multi_proxy_anchor import MultiProxyAnchorLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss
from anchorage.losses.n_pair import NPairLoss
from anchorage.losses.nca import NCALoss
from anchorage.losses.nivmf import NivMFLoss
from anchorage.losses.nt_xent import NTXentLoss
from anchorage.losses.p2s_grad import P2SGradLoss
from anchorage.losses.pce import PCELoss
from anchorage.losses.pnp import PNPLoss
from anchorage.losses.proxy_nca import ProxyNCALoss
from anchorage.losses.ranked_list import RankedListLoss
from anchorage.losses.regularized import RegularizedLoss
from anchorage.losses.roadmap import RoadmapLoss
from anchorage.losses.self_supervised import SelfSupervisedLoss
from anchorage.losses.smooth_ap import SmoothAPLoss
from anchorage.losses.soft_triple import SoftTripleLoss
from anchorage.losses.softmax import SoftmaxLoss
from anchorage.losses.soprc import SOPRCLoss
from anchorage.losses.spce import SPCELoss
from anchorage.losses.sphereface import SphereFaceLoss
from anchorage.losses.sup_con import SupConLoss
from anchorage.losses.threshold_consistent_margin import ThresholdConsistentMarginLoss
from anchorage.losses.triplet import TripletLoss
from anchorage.losses.tuplet_margin import TupletMarginLoss
from anchorage.losses.vicreg import VICRegLoss
from anchorage.registry import create, find_class

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

# Other names that losses go by: the entry of `LOSSES`, and the parameters that make it the loss of that name.
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "info_nce": ("nt_xent", {}),
    "large_margin_softmax": ("sphereface", {"weight_lengths": True}),
    "proxy_anchor": ("multi_proxy_anchor", {"proxies_per_class": 1}),
    "snr_contrastive": ("contrastive", {"distance": "snr"}),
    "subcenter_arcface": ("arcface", {"sub_centers": 3}),
}


def create_loss(name: str, params: dict[str, Any] | None = None, **facts: Any) -> keras.layers.Layer:
    """Make a loss; `facts` such as `num_classes` go to the losses that ask for them.

    Args:
        name: a key of `LOSSES` or of `ALIASES`, or `"package.module:ClassName"` of a Keras layer or of a
            `keras.losses.Loss`, such as `"tensorflow_similarity.losses:CircleLoss"`.
        params: constructor arguments; parts of a combined loss are layers or `{"name": ..., "params": {...}}`.
        **facts: what only the data knows: `num_classes`, `class_counts`, `embedding_size`.

    Raises:
        UsageError: on an unknown name or parameter, or a missing one.
        ValueError: if the constructor refuses a value.
    """
    name, params = resolve_alias(name, params)
    if is_keras_loss(name):
        return KerasLoss(name, params)
    if isinstance(params, Mapping):
        params = make_parts(find_class(LOSSES, name, keras.layers.Layer), params, facts)
    return create(LOSSES, name, params, facts, base=keras.layers.Layer)


@keras.saving.register_keras_serializable(package="anchorage")  # `LossLayer.from_config` finds it by this name
def make_parts(
    cls: type, params: Mapping[str, Any], facts: Mapping[str, Any] = MappingProxyType({}), older: bool = False
) -> dict[str, Any]:
    """Replace the tables `{"name": ..., "params": {...}}` among the parameters of a combined loss with layers.

    Args:
        cls: a class with `LossLayer.parts`; of any other the parameters stay as they are.
        params: constructor arguments.
        facts: as in `create_loss`, for losses; a `num_classes` in `params` takes precedence.
        older: whether `params` are from the config of an older release, with options that have been removed since.

    Raises:
        UsageError: on an unknown name or parameter, or a missing one.
        ValueError: on a part that is neither a table nor a layer, or if a constructor refuses a value.
    """
    if params.get("num_classes") is not None:
        facts = {**facts, "num_classes": params["num_classes"]}

    def make(key: str, part: Any, table: Mapping[str, type] | None) -> Any:
        if isinstance(part, list | tuple):
            return [make(key, each, table) for each in part]
        if part is None or isinstance(part, keras.layers.Layer):
            return part
        if not isinstance(part, Mapping) or "name" not in part or set(part) - {"name", "params"}:
            raise ValueError(f"Expected `{key}` as {{'name': ..., 'params': {{...}}}}. Received: {part!r}")
        name, inner = part["name"], part.get("params") or {}
        if table is not None:
            return create(table, name, inner, base=keras.layers.Layer)
        if older and issubclass(found := find_loss(name), LossLayer):
            inner = found.without_removed(inner)
        return create_loss(name, inner, **facts)

    tables = getattr(cls, "parts", {})
    return {key: make(key, value, tables[key]) if key in tables else value for key, value in params.items()}


def find_loss(name: str) -> type:
    """The class of a loss: a Keras layer, or a `keras.losses.Loss`.

    Raises:
        UsageError: E_NAME_UNKNOWN, with the name that may have been meant.
    """
    name, _ = resolve_alias(name)
    return find_class(LOSSES, name, keras.losses.Loss if is_keras_loss(name) else keras.layers.Layer)


def resolve_alias(name: str, params: dict[str, Any] | None = None) -> tuple[str, dict[str, Any] | None]:
    """Resolve an alias to a name in `LOSSES` and its parameters; given parameters take precedence."""
    if isinstance(name, str) and name in ALIASES and (params is None or isinstance(params, Mapping)):
        known, own = ALIASES[name]
        return known, {**own, **(params or {})}
    return name, params


__all__ = [
    "ALIASES",
    "LOSSES",
    "AngularLoss",
    "ArcFaceLoss",
    "BalancedContrastiveLoss",
    "BinomialDevianceLoss",
    "CBMLLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemoryLoss",
    "DynamicSoftMarginLoss",
    "EnsembleLoss",
    "FastAPLoss",
    "GeneralPairWeightingLoss",
    "GeneralizedLiftedStructureLoss",
    "HistogramLoss",
    "HybridLoss",
    "InstanceLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "ManifoldLoss",
    "MarginLoss",
    "MinedLoss",
    "MultiProxyAnchorLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NPairLoss",
    "NTXentLoss",
    "NivMFLoss",
    "P2SGradLoss",
    "PCELoss",
    "PNPLoss",
    "PrintedMultiSimilarityLoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "RegularizedLoss",
    "RoadmapLoss",
    "SOPRCLoss",
    "SPCELoss",
    "SelfSupervisedLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SoftmaxLoss",
    "SphereFaceLoss",
    "SupConLoss",
    "ThresholdConsistentMarginLoss",
    "TripletLoss",
    "TupletMarginLoss",
    "VICRegLoss",
    "create_loss",
    "find_loss",
    "resolve_alias",
]
