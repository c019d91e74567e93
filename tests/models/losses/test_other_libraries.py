"""Our losses against those of TensorFlow Addons and TensorFlow Similarity, under settings with one definition.

The answers of the other libraries were made by the scripts under tests/oracles, which run the real packages. The
table in models/losses/MIGRATION.md is what is checked here; keep the two alike.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from models.losses import create_loss

ORACLES = Path(__file__).parents[2] / "data" / "oracles"
ADDONS = {"L2": "euclidean", "squared-L2": "squared_euclidean", "angular": "cosine"}
# On rows of unit length; "dot" and `normalize=False` leave the gradient as theirs, without the way through the norm.
SIMILARITY = {"cosine": "dot", "euclidean": "euclidean", "sql2": "squared_euclidean"}
PAIRED = ("two_of_each", "torn")  # one positive for every anchor


def load(file):
    return json.loads((ORACLES / file).read_text())


def tfa_triplet(case):
    params = case["params"]
    ours = {"margin": 0.0 if params.get("soft") else params.get("margin", 1.0), "smooth": params.get("soft", False)}
    ours |= {"distance": ADDONS[params.get("distance_metric", "L2")], "reducer": "mean", "normalize": False}
    mining = {"TripletSemiHardLoss": "nearest_semi_hard", "TripletHardLoss": "batch_hard"}[case["loss"]]
    return "triplet", {**ours, "mining": mining}, 1


def tfa_lifted(case):
    return "lifted_structure", {"neg_margin": case["params"].get("margin", 1.0), "normalize": False}, 1


def tfa_n_pair(case):
    return "n_pair", {"reg_lambda": 0.0, "layout": "interleaved"}, 1


def tfa_contrastive(case):
    """Theirs is the mean over all unordered pairs, ours the sum over all ordered ones."""
    count = len(case["labels"])
    ours = {"neg_margin": case["params"]["margin"], "power": 2, "normalize": False, "reducer": "sum"}
    return "contrastive", ours, 1 / (count * (count - 1))


def tfs_triplet(case):
    params = case["params"]
    margin = params.get("margin")
    ours = {
        "margin": 0.0 if margin is None else margin,
        "smooth": margin is None,
        "reducer": "mean",
        "normalize": False,
    }
    ours["distance"] = SIMILARITY[params.get("distance", "cosine")]
    if params.get("positive_mining_strategy") == "easy":
        miner = {"name": "batch_easy_hard", "params": {"positive": "easy", "negative": "hard"}}
        return "mined", {"loss": {"name": "triplet", "params": ours}, "miner": miner}, 1
    if params.get("negative_mining_strategy") == "hard":
        return "triplet", {**ours, "mining": "batch_hard"}, 1
    if case["batch"] not in PAIRED:
        return None  # theirs takes the hardest positive of an anchor, ours every one
    return "triplet", {**ours, "mining": "nearest_semi_hard", "swap": case["loss"] == "PNLoss"}, 1


def tfs_multi_similarity(case):
    params = case["params"]
    ours = {"alpha": params.get("alpha", 2.0), "beta": params.get("beta", 40.0), "normalize": False}
    return "multi_similarity", {**ours, "base": params.get("lmda", 0.5), "eps": params.get("epsilon", 0.1)}, 1


def tfs_circle(case):
    if case["batch"] != "torn":
        return None  # theirs adds log(1 + A) and log(1 + B), ours is log(1 + AB): one only where both are large
    params = case["params"]
    return "circle", {"m": params.get("margin", 0.4), "gamma": params.get("gamma", 80.0), "reducer": "mean"}, 1


def tfs_soft_nearest_neighbor(case):
    temperature = case["params"].get("temperature", 1.0)
    if temperature < 1 and case["batch"] == "torn":
        return None  # theirs keeps every share above 1e-9, and here the shares are not far from it
    return "nca", {"softmax_scale": 1 / temperature, "normalize": False}, 1


def tfs_sim_clr(case):
    inner = {"name": "nt_xent", "params": {"temperature": case["params"]["temperature"]}}
    return "self_supervised", {"loss": inner}, 2


def tfs_vicreg(case):
    """The variances differ: theirs divide by n, ours by n - 1 as the paper says."""
    if case["batch"].startswith("20"):  # all standard deviations beyond 1: the variance term is 0 in both
        return "vicreg", {}, 1
    return ("vicreg", {"variance_mu": 0.0}, 1) if case["params"] else None


OURS = {
    "tensorflow-addons.json": {
        "TripletSemiHardLoss": tfa_triplet,
        "TripletHardLoss": tfa_triplet,
        "LiftedStructLoss": tfa_lifted,
        "NpairsLoss": tfa_n_pair,
        "ContrastiveLoss": tfa_contrastive,
    },
    "tensorflow-similarity.json": {
        "TripletLoss": tfs_triplet,
        "PNLoss": tfs_triplet,
        "MultiSimilarityLoss": tfs_multi_similarity,
        "CircleLoss": tfs_circle,
        "SoftNearestNeighborLoss": tfs_soft_nearest_neighbor,
        "SimCLRLoss": tfs_sim_clr,
        "VicReg": tfs_vicreg,
    },
}
WITHOUT_COUNTERPART = {"Barlow", "MultiNegativesRankLoss", "SimSiamLoss"}
CASES = [
    pytest.param(file, number, id=f"{case['loss']}-{number}")
    for file, ours in OURS.items()
    for number, case in enumerate(load(file))
    if case["loss"] in ours and ours[case["loss"]](case) is not None
]


@pytest.mark.parametrize(("file", "number"), CASES)
def test_ours_agrees(file, number, differentiate):
    case = load(file)[number]
    name, params, factor = OURS[file][case["loss"]](case)
    loss, labels = create_loss(name, params), np.array(case["labels"], "int32")
    value, (gradient,) = differentiate(lambda rows: loss(rows, labels), np.array(case["embeddings"], "float32"))
    assert factor * value == pytest.approx(case["value"], rel=2e-5, abs=2e-6)
    if case["loss"] != "CircleLoss":  # theirs differentiates the weights too, which the paper keeps fixed
        assert factor * gradient == pytest.approx(np.array(case["gradient"]), rel=2e-4, abs=2e-5)


def test_ours_agrees_with_their_memory_step_by_step():
    """A memory of whole batches: of a batch that fits in part, theirs keeps the first rows and ours the last."""
    ours = create_loss(
        "cross_batch_memory",
        {"loss": {"name": "multi_similarity", "params": {"beta": 40.0}}, "memory_size": 20},
    )
    cases = [case for case in load("tensorflow-similarity.json") if case["loss"] == "XBM"]
    assert len(cases) == 4
    for case in cases:
        rows, labels = np.array(case["embeddings"], "float32"), np.array(case["labels"])
        assert float(ours(rows, labels, training=True)) == pytest.approx(case["value"], rel=2e-5)


def test_every_case_is_accounted_for():
    for file, ours in OURS.items():
        assert {case["loss"] for case in load(file)} - {"XBM"} == set(ours) | (
            WITHOUT_COUNTERPART if "similarity" in file else set()
        )
    assert len(CASES) == 68
