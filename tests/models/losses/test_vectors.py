"""Every published-formula case under tests/data/vectors that belongs to a loss: value and gradients.

Each line below says how a case's parameters are written for our layer. The cases were worked out in float64, so
the layer is run in float64 too, and once more in float32 as in training.
"""

import inspect
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from backends import agree, slopes_of
from keras import ops

from anchorage.losses import LOSSES
from anchorage.losses.hybrid import PrintedMultiSimilarityLoss
from anchorage.losses.multi_proxy_anchor import MultiProxyAnchorLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss

VECTORS = Path(__file__).parents[2] / "data" / "vectors"


def pick(*names, **more):
    """Take over these parameters of the case, and add some."""
    return lambda case: {**{name: case["params"][name] for name in names if name in case["params"]}, **more}


def rows(key, attribute="proxies"):
    """The case's weight `key` holds one row a proxy, perhaps grouped by class."""
    return lambda case: {attribute: tuple(flat(values) for values in weight_of(case, key))}


def columns(key):
    """The case's weight `key` holds one column a proxy, class after class."""
    return lambda case: {"proxies": tuple(values.T for values in weight_of(case, key))}


def flat(values):
    return values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values


def weight_of(case, key):
    """Value of a case's weight and the gradient it should get."""
    inputs, expected = case["inputs"], case["expected"]
    value = {**inputs, **inputs.get("weights", {})}[key]
    gradients = {**expected.get("grad", {}), **expected.get("grad_weights", {})}
    gradient = gradients[key] if key in gradients else expected[f"grad_{key}"]
    return np.array(value), np.array(gradient)


def classifier(case):
    bias = {} if case["name"].startswith("pce") else rows("b", "bias")(case)
    return {**rows("W")(case), **bias}


def multi_proxy(case):
    shape = np.shape({**case["inputs"], **case["inputs"].get("weights", {})}["proxies"])
    margin = {"delta": case["params"]["margin"]} if "margin" in case["params"] else {}
    taken = pick("alpha", "delta", "gamma")(case)
    return {**taken, **margin, "proxies_per_class": shape[1] if len(shape) == 3 else 1}


def hybrid(case):
    params = case["params"]
    pair = MultiSimilarityLoss if params["negative_margin_convention"] == "minus" else PrintedMultiSimilarityLoss
    proxy = {"proxies_per_class": 1, "alpha": params["pa_alpha"], "delta": params["pa_margin"]}
    return {
        "pair": pair(alpha=params["gamma"], beta=params["beta"], base=params["sigma"], mining=False),
        "proxy": MultiProxyAnchorLoss(1 + max(case["inputs"]["labels"]), **proxy),
        "proxy_weight": params["proxy_weight"],
    }


def nivmf(case):
    return pick("metric", "rho", "temp", "normaliser")(case)


def directions(case):
    return {**rows("mu")(case), "concentrations": weight_of(case, "kappa")}


def proxy_nca_pp(case):
    scale = case["params"]["temperature"] ** -0.5
    return {"include_positive": True, "scale_x": scale, "scale_p": scale}


def soprc(case):
    names = {"num_sample_per_id", "v_init", "class_update"}
    params = {k: v for k, v in case["params"].items() if k not in names}
    return {"w_var": 0.0, "num_v": 5, "published_code": case["params"]["class_update"] == "last", **params}


def manifold(case):
    return {
        "assignment": "labels",
        "num_proxies": 3,
        "lambda_c": case["params"]["lambdaC"],
        **pick("alpha", "margin")(case),
    }


NCA = pick("scale_x", "scale_p", "include_positive", "label_smoothing")
MS = pick("alpha", "beta", "base", "eps", "mining", "normalize")
SOFTMAX = pick("label_smoothing", "kl", "normalize", "normalize_weight")
AP = pick("tau", "rho", "delta", "start", "offset", "alpha", "beta", "w_ap", "w_cal")
SOFTMAX_FORM = pick("lam", "tau", "include_positive", "normalize", "norm_by_lambda", aggregation="log_sum_exp")
N_PAIR = pick("reg_lambda", "variant", "symmetric", "normalize")

# file -> case -> (loss, how to write its parameters, its weights and their gradients)
CASES = {
    "05-cbml": dict.fromkeys(
        ("log_default_soft_neg", "sqrt_no_variance", "const_all_params", "singletons_skipped", "repo_defaults_log"),
        ("cbml", lambda case: case["params"]),
    ),
    "06-unifying-mutual-information": {
        **dict.fromkeys(("smooth_ce_kl", "ce_no_smoothing", "cosine_ce"), ("softmax", SOFTMAX, classifier)),
        **dict.fromkeys(("spce_batch_classes", "spce_normalised"), ("spce", pick("normalize"))),
        **dict.fromkeys(
            ("pce_lambda_1_stopgrad_p", "pce_lambda_half"),
            ("pce", pick("lam", "normalize", "detach_p", train_classifier=False), classifier),
        ),
    },
    "07-multi-head-global-local": dict.fromkeys(
        ("hybrid_minus_sigma", "hybrid_printed_plus_sigma", "hybrid_soft"), ("hybrid", hybrid, rows("W"))
    ),
    "08-proxy-nca": {
        **dict.fromkeys(
            ("nca_exclude_positive_s3", "nca_include_positive_s3", "nca_smoothing"), ("proxy_nca", NCA, rows("proxies"))
        ),
        "proxy_anchor": ("multi_proxy_anchor", multi_proxy, rows("proxies")),
    },
    "09-n-pair": dict.fromkeys(
        ("mc_tf_reg", "mc_no_reg_class_of_three", "mc_symmetric_strong_reg", "ovo", "singleton_class_ignored"),
        ("n_pair", N_PAIR),
    ),
    "10-roadmap": {
        **dict.fromkeys(("supap_wide", "supap_repo_settings", "roadmap_repo"), ("roadmap", AP)),
        "calibration": ("roadmap", pick("alpha", "beta", w_ap=0.0)),
        "roadmap_paper": (
            "roadmap",
            lambda case: {**AP(case), "published_code": False, "w_ap": 0.5, "w_cal": 0.5, "reduction": "all"},
        ),
    },
    "11-multi-similarity": dict.fromkeys(
        ("paper_setting_lambda1", "repo_setting_lambda_half_beta40", "pml_defaults_no_mining", "singletons"),
        ("multi_similarity", MS),
    ),
    "13-mpa-ndcg": dict.fromkeys(
        ("mpa_k2_gamma0.1", "mpa_k2_gamma1_alpha8", "mpa_k1_equals_proxy_anchor"),
        ("multi_proxy_anchor", multi_proxy, rows("proxies")),
    ),
    "17-annotation-efficient": dict.fromkeys(
        ("proxynca_pp_T_1_9", "proxynca_pp_T_1"),
        (
            "proxy_nca",
            proxy_nca_pp,
            lambda case: {"proxies": (np.array(case["inputs"]["proxies"]), np.array(case["expected"]["grad_proxies"]))},
        ),
    ),
    "18-soprc": dict.fromkeys(
        ("soprc_stop_gradient_last", "soprc_stop_gradient_mean", "soprc_full_gradient_beta0"), ("soprc", soprc)
    ),
    "19-balance-contrastive": {
        **dict.fromkeys(
            (
                "margin_mean",
                "margin_mean_nonzero",
                "margin_sum_per_anchor",
                "margin_unbalanced_mean",
                "margin_unbalanced_anchor_mean",
                "margin_unbalanced_anchor_mean_nonzero",
            ),
            ("balanced_contrastive", lambda case: case["params"]),
        ),
        **dict.fromkeys(
            ("ntxent_lambda1", "ntxent_normalised_by_lambda"),
            ("balanced_contrastive", SOFTMAX_FORM),
        ),
    },
    "20-nivmf": dict.fromkeys(
        ("nivmf", "nivmf_exact_normaliser", "el_vmf", "b_vmf", "neg_kl"), ("nivmf", nivmf, directions)
    ),
    "standard-losses": {
        "contrastive": ("contrastive", pick("pos_margin", "neg_margin", "reducer")),
        "snr_contrastive": ("contrastive", pick("pos_margin", "neg_margin", distance="snr")),
        "triplet_all": ("triplet", pick("margin", "reducer")),
        "triplet_semihard_miner": ("triplet", pick("margin", "miner_margin", mining="semi_hard")),
        "triplet_batch_hard": ("triplet", pick("margin", mining="batch_hard")),
        "triplet_semihard_tensorflow": (
            "triplet",
            pick("margin", mining="nearest_semi_hard", distance="squared_euclidean", reducer="mean"),
        ),
        "proxy_nca_pp": ("proxy_nca", pick(include_positive=True, scale_x=3.0, scale_p=3.0), rows("proxies")),
        "proxy_anchor": ("multi_proxy_anchor", multi_proxy, rows("proxies")),
        "margin": ("margin", pick("margin", "beta", beta_per_class=False, learn_beta=False, mining="all")),
        "normalized_softmax": (
            "softmax",
            pick("temperature", normalize=True, normalize_weight=True, use_bias=False),
            columns("W"),
        ),
        "smooth_ap": ("smooth_ap", pick("temperature")),
        "pnp": ("pnp", pick("variant", "anneal")),
        "lifted_structure": ("lifted_structure", pick("neg_margin", "pos_margin")),
        "generalized_lifted_structure": ("generalized_lifted_structure", pick("neg_margin", "pos_margin")),
        "ntxent": ("nt_xent", pick("temperature")),
        "supcon": ("sup_con", pick("temperature", "reducer")),
        "circle": ("circle", pick("m", "gamma", "reducer")),
        "nca": ("nca", pick("softmax_scale")),
        "arcface": ("arcface", pick("margin", "scale"), columns("W")),
        "subcenter_arcface": ("arcface", pick("margin", "scale", "sub_centers"), columns("W")),
        "cosface": ("cosface", pick("margin", "scale"), columns("W")),
        "sphereface": ("sphereface", pick("margin", "scale"), columns("W")),
        "large_margin_softmax": ("sphereface", pick("margin", "scale", weight_lengths=True), columns("W")),
        "soft_triple": ("soft_triple", pick("centers_per_class", "la", "gamma", "margin"), columns("fc")),
        "fast_ap": ("fast_ap", pick("num_bins")),
        "tuplet_margin": ("tuplet_margin", pick("margin", "scale")),
        "intra_pair_variance": ("intra_pair_variance", pick("pos_eps", "neg_eps")),
        "vicreg": ("vicreg", pick("invariance_lambda", "variance_mu", "covariance_v", "eps")),
        "threshold_consistent_margin": (
            "threshold_consistent_margin",
            pick("lambda_plus", "lambda_minus", "margin_plus", "margin_minus"),
        ),
        "histogram": ("histogram", pick("n_bins")),
        "instance": ("instance", pick("gamma")),
        "p2sgrad": ("p2s_grad", pick(), columns("weight")),
        "ranked_list": (
            "ranked_list",
            lambda case: {key.lower(): value for key, value in case["params"].items()},
        ),
        "angular_all_normalised": ("angular", pick("alpha")),
        "manifold": ("manifold", manifold, rows("proxies")),
    },
}
ALL = [(file, name) for file, cases in CASES.items() for name in cases]
# Cases that are no loss of a batch; a test of their own reads them.
ELSEWHERE = {
    "07-multi-head-global-local": {"head_forward_scale_none", "head_forward_scale_sqrt"},
    "09-n-pair": {"hard_class_mining_greedy"},
    "10-roadmap": {"supap_from_scores"},
    "11-multi-similarity": {"gpw_weights_repo_setting"},
    "13-mpa-ndcg": {"ndcg_binary", "ndcg_graded"},
    "17-annotation-efficient": {"pseudo_labels_tau0.8", "pseudo_labels_tau0.6_cap2", "gist_greedy_path", "rist_path"},
    "18-soprc": {"semivariance"},
    "19-balance-contrastive": {"search_two_floats", "search_float_and_choice_max", "ntxent_lambda_quarter_logmean"},
    "20-nivmf": {
        "el_nivmf_fixed_samples_scaled",
        "el_nivmf_fixed_samples_repo",
        "guidance",
        "vmf_sampler_from_noise",
        "log_normaliser_table",
    },
}
# Cases without the constant that our layer keeps under a root.
LOOSE = {"margin": 1e-7, "manifold": 1e-7}  # manifold: the oracle inverts its graph in float32
# Our layer holds the logarithm of the temperature, at first in float32.
LOOSE.update(dict.fromkeys(CASES["20-nivmf"], 1e-7))
if keras.backend.backend() == "torch":  # there Keras adds up segments, the bins of a histogram, in float32
    LOOSE.update(fast_ap=1e-7, histogram=1e-7)


def load(file, name):
    return next(case for case in json.loads((VECTORS / f"{file}.json").read_text()) if case["name"] == name)


def batch_of(case, dtype):
    """Embeddings and labels; two views of a batch come one after the other."""
    embeddings, labels = np.array(case["inputs"]["embeddings"], dtype), np.array(case["inputs"]["labels"])
    if "ref_embeddings" in case["inputs"]:
        embeddings = np.concatenate([embeddings, np.array(case["inputs"]["ref_embeddings"], dtype)])
        labels = np.tile(np.arange(len(labels)), 2)
    return embeddings, np.array(case["params"].get("meta_classes", labels))


def make_loss(file, case, dtype):
    """The layer a case is about, with the case's weights, and the gradient each weight should get."""
    loss_name, params_of, *weights_of = CASES[file][case["name"]]
    facts = {"num_classes": 1 + max(case["inputs"]["labels"])}
    if weights_of and loss_name in ("multi_proxy_anchor", "proxy_nca"):
        facts["num_classes"] = len({**case["inputs"], **case["inputs"].get("weights", {})}["proxies"])
    taken = inspect.signature(LOSSES[loss_name]).parameters
    facts = {key: value for key, value in facts.items() if key in taken}
    loss = LOSSES[loss_name](**facts, **params_of(case), dtype=dtype)
    if loss_name == "nivmf":  # its cases are of three terms of the expansion at D = 3, where they are not exact
        loss._approximation = "debye3"
    weights = weights_of[0](case) if weights_of else {}
    if weights:
        loss.build((None, len(case["inputs"]["embeddings"][0])), (None,))
    for attribute, (value, _) in weights.items():
        getattr(loss, attribute).assign(value)
    return loss, {attribute: gradient for attribute, (_, gradient) in weights.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
@pytest.mark.parametrize(("file", "name"), ALL, ids=[f"{file}:{name}" for file, name in ALL])
def test_value_and_gradients(file, name, dtype, tolerance):
    case = load(file, name)
    loss, weights = make_loss(file, case, dtype)
    embeddings, labels = batch_of(case, dtype)
    expected = case["expected"]
    of_embeddings = expected["grad"]["embeddings"] if "grad" in expected else expected["grad_embeddings"]
    value, (found, *all_weights) = slopes_of(loss)(embeddings, labels)
    gradients = dict(zip(map(id, loss.trainable_weights), all_weights, strict=True))
    of_weights = [gradients[id(getattr(loss, attribute))] for attribute in weights]
    pairs = (value, expected["loss"]), (found[: len(of_embeddings)], of_embeddings)
    for ours, theirs in (*pairs, *zip(of_weights, weights.values(), strict=True)):
        agree(CASES[file][name][0], f"{file}:{name}", dtype, ours, theirs, max(tolerance, LOOSE.get(name, 0.0)))


def spce_parts(loss, embeddings, labels):
    """Tightness by its sum over pairs, and what is left of the loss."""
    rows = ops.convert_to_numpy(embeddings)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) if loss.normalize else rows
    tightness = -np.sum((rows @ rows.T)[labels[:, None] == labels[None]]) / len(labels) ** 2
    return tightness, loss(embeddings, labels) - tightness


# What a case says of the parts of its loss, and how our layer gives them.
PARTS = {
    "spce": (("tightness", "contrastive"), spce_parts),
    "pce": (("tightness", "contrastive"), lambda loss, *batch: loss.terms(*batch)),
    "hybrid": (("multi_similarity", "proxy_anchor"), lambda loss, *b: (loss.pair_loss(*b), loss.proxy_loss(*b))),
    "balanced_contrastive": (("positive", "entropy"), lambda loss, *batch: loss.terms(*batch)),
}
WITH_PARTS = [(file, name) for file, name in ALL if CASES[file][name][0] in PARTS]


@pytest.mark.parametrize(("file", "name"), WITH_PARTS, ids=[f"{file}:{name}" for file, name in WITH_PARTS])
def test_parts(file, name):
    case = load(file, name)
    names, parts_of = PARTS[CASES[file][name][0]]
    embeddings, labels = batch_of(case, "float64")
    found = parts_of(make_loss(file, case, "float64")[0], ops.convert_to_tensor(embeddings, "float64"), labels)
    wanted = [case["expected"][part] for part in names]
    assert [float(part) for part in found] == pytest.approx(wanted, rel=max(1e-10, LOOSE.get(name, 0.0)))


@pytest.mark.parametrize(("file", "name"), ALL, ids=[f"{file}:{name}" for file, name in ALL])
def test_nothing_expected_is_left_out(file, name):
    parts, _ = PARTS.get(CASES[file][name][0], ((), None))
    elsewhere = {"v_after"} if file == "18-soprc" else set()  # test_soprc.py has the sketches
    rest = {key for key in load(file, name)["expected"] if key != "loss" and not key.startswith("grad")}
    assert rest - elsewhere == set(parts)


@pytest.mark.parametrize("file", sorted(CASES))
def test_every_case_of_a_covered_file_is_known(file):
    names = {case["name"] for case in json.loads((VECTORS / f"{file}.json").read_text())}
    assert names == set(CASES[file]) | ELSEWHERE.get(file, set())
