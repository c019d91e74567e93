"""What every loss refuses: wrong batches, labels without a proxy, unknown parameters and values out of range."""

import inspect
import math
import re

import keras
import numpy as np
import pytest
from backends import compile_loss, needs_dense_labels

from anchorage.errors import UsageError
from anchorage.losses import LOSSES, create_loss

ROWS, DIM, CLASSES = 6, 4, 3
EMBEDDINGS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32")
LABELS = np.arange(ROWS) % CLASSES
MARGINS = ("pos_margin", "neg_margin")
# Numbers that may be -7, and why.
FREE = {
    *((name, "seed") for name in ("manifold", "margin", "nivmf")),
    # cosines and distances, where nothing breaks
    *(("cbml", name) for name in ("pos_a", "neg_a")),
    ("contrastive", "pos_margin"),
    ("general_pair_weighting", "base"),
    *((name, which) for name in ("generalized_lifted_structure", "lifted_structure") for which in MARGINS),
    ("roadmap", "beta"),
    ("roadmap", "offset"),  # a height
    ("dynamic_soft_margin", "min_val"),  # must be negative
}
# By annotation: what is expected, and what is refused.
WRONG = {
    bool: ("True or False", ["false", 1, None]),
    int: ("an integer", [3.7, math.nan, math.inf, "3", True, None]),
    float: ("a finite number", [math.nan, math.inf, -math.inf, "0.1", True, None, [0.1]]),
    str: ("a string", [3, True, None]),
    int | None: ("an integer or None", [3.7, math.nan, "3", True]),
    float | None: ("a finite number or None", [math.nan, math.inf, "0.1", True]),
}


def make(name, **params):
    return create_loss(name, params, num_classes=CLASSES)


def numbers():
    """Every parameter that is a number, of every loss."""
    for name, cls in sorted(LOSSES.items()):
        for parameter in inspect.signature(cls).parameters.values():
            is_number = isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)
            if is_number or (parameter.name == "num_classes" and parameter.default is not None):
                yield name, parameter.name


@pytest.fixture(scope="module", params=sorted(LOSSES))
def loss(request):
    return make(request.param)


@pytest.mark.parametrize(
    ("embeddings", "labels", "error", "text"),
    [
        (
            EMBEDDINGS,
            LABELS.astype("float32"),
            TypeError,
            r"Expected integer `labels`\. Received: labels\.dtype=float32",
        ),
        (EMBEDDINGS, LABELS > 0, TypeError, r"Expected integer `labels`\. Received: labels\.dtype=bool"),
        (EMBEDDINGS, LABELS[1:], ValueError, r"Expected one label per embedding\. Received: 6 embeddings and 5 labels"),
        (EMBEDDINGS, LABELS[:, None], ValueError, r"`labels` of shape \(batch,\)\. Received: .*labels.shape=\(6, 1\)"),
        (EMBEDDINGS[:0], LABELS[:0], ValueError, r"at least one embedding\. Received: embeddings\.shape=\(0, 4\)"),
        (EMBEDDINGS[:, 0], LABELS, ValueError, r"`embeddings` of shape \(batch, dim\).*embeddings\.shape=\(6,\)"),
        (EMBEDDINGS[:, None], LABELS, ValueError, r"`embeddings` of shape \(batch, dim\).*shape=\(6, 1, 4\)"),
    ],
    ids=[
        "float labels",
        "bool labels",
        "other count",
        "labels (N, 1)",
        "empty",
        "embeddings (N,)",
        "embeddings (N, 1, D)",
    ],
)
def test_wrong_batches_are_refused(loss, embeddings, labels, error, text):
    fresh = type(loss).from_config(loss.get_config())  # also before the weights are made
    for layer in (loss, fresh):
        with pytest.raises(error, match=text):
            layer(embeddings, labels)


def test_label_without_proxy_is_refused_or_stops_the_training(loss):
    if not needs_dense_labels(loss):
        pytest.skip("takes any class id")
    loss(EMBEDDINGS, LABELS)
    steps = compile_loss(loss, DIM)
    for labels in (np.where(LABELS == 0, wrong, LABELS) for wrong in (CLASSES, -1)):
        with pytest.raises(ValueError, match=rf"Expected `labels` in 0 \.\. {CLASSES - 1}.*Received: labels from"):
            loss(EMBEDDINGS, labels)
        for compiled in (steps[name] for name in ("graph", "jit") if name in steps):  # where it cannot raise
            assert np.isnan(compiled(EMBEDDINGS, labels)[0])


@pytest.mark.parametrize(("name", "parameter"), list(numbers()))
def test_negative_numbers_are_refused_where_they_make_no_sense(name, parameter):
    if (name, parameter) in FREE:
        make(name, **{parameter: -7})
        return
    with pytest.raises(ValueError, match=rf"`{parameter}`.*Received: .*{parameter}=-7") as caught:
        make(name, **{parameter: -7})
    if "must be positive" in str(caught.value) or "at least 1" in str(caught.value):
        with pytest.raises(ValueError, match=rf"`{parameter}`.*Received: .*{parameter}=0"):
            make(name, **{parameter: 0})


def annotated():
    """Every parameter of every loss that is a number, a flag or a word, or one of these or None."""
    for name, cls in sorted(LOSSES.items()):
        for parameter in inspect.signature(cls).parameters.values():
            if parameter.annotation in WRONG:
                yield name, parameter


@pytest.mark.parametrize(("name", "parameter"), [pytest.param(*x, id=f"{x[0]}-{x[1].name}") for x in annotated()])
def test_values_of_another_kind_are_refused(name, parameter):
    expected, values = WRONG[parameter.annotation]
    needed = inspect.signature(LOSSES[name]).parameters
    facts = {"num_classes": CLASSES} if "num_classes" in needed else {}
    for value in values:
        text = re.escape(f"`{parameter.name}` must be {expected}. Received: {parameter.name}={value!r}")
        with pytest.raises(UsageError, match=f"^E_PARAMETER_VALUE: '{name}': {text}$"):
            make(name, **{parameter.name: value})
        with pytest.raises(ValueError, match=f"^{text}$"):
            LOSSES[name](**{**facts, parameter.name: value})


def test_every_kind_of_parameter_is_among_the_checked():
    checked = {(name, parameter.name) for name, parameter in annotated()}
    assert set(numbers()) <= checked | {("soprc", "class_prior")}  # one number or a list


@pytest.mark.parametrize("wrong", [math.nan, "0.1", [0.1, math.nan, 0.1], [0.1, "0.1", 0.1], True])
def test_lists_are_checked_entry_by_entry(wrong):
    text = re.escape(f"must be a finite number or a list, each entry a finite number. Received: class_prior={wrong!r}")
    with pytest.raises(UsageError, match=text):
        make("soprc", class_prior=wrong)


def test_numbers_of_numpy_and_integers_for_floats_are_taken():
    assert make("contrastive", neg_margin=np.float32(2), power=np.int64(2), normalize=np.True_).power == 2
    assert make("contrastive", neg_margin=2).neg_margin == 2


@pytest.mark.parametrize(
    ("name", "params", "text"),
    [
        ("margin", {"cutoff": 5, "nonzero_loss_cutoff": 6}, r"`cutoff` must lie between 0 and 2\. Received: cutoff=5"),
        (
            "margin",
            {"nonzero_loss_cutoff": 0.5},
            r"`nonzero_loss_cutoff` must be above `cutoff`\. Received: cutoff=0\.5",
        ),
        ("manifold", {"num_proxies": 1}, r"`num_proxies` must be at least 2\. Received: num_proxies=1"),
        ("proxy_nca", {"reducer": "avg_non_zero"}, r"`reducer` .* losses can be negative.*Received: reducer='avg_non_"),
        ("softmax", {"reducer": {"name": "threshold", "low": math.nan}}, r"'threshold' takes numbers.*Received"),
        ("softmax", {"reducer": {"name": "class_weighted", "weights": [1, -1, 1]}}, r"weights not below 0\. Received"),
        ("softmax", {"reducer": {"name": "class_weighted", "weights": 1}}, r"'class_weighted' takes numbers.*Received"),
    ],
)
def test_what_the_descriptions_rule_out_is_refused(name, params, text):
    with pytest.raises(ValueError, match=text):
        make(name, **params)


def test_items_of_negative_cost_are_not_at_risk_where_none_can_be():
    assert make("proxy_nca", reducer="avg_non_zero", include_positive=True).reducer == "avg_non_zero"


@pytest.mark.parametrize("name", ["contrastive", "softmax", "triplet"])
def test_class_without_weight_is_refused_or_stops_the_training(name):
    loss = make(name, reducer={"name": "class_weighted", "weights": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"Expected `labels` in 0 \.\. 1, one of the `weights`.*labels from 0 to 2"):
        loss(EMBEDDINGS, LABELS)
    steps = compile_loss(loss, DIM)
    for compiled in (steps[name] for name in ("graph", "jit") if name in steps):  # where it cannot raise
        assert np.isnan(compiled(EMBEDDINGS, LABELS)[0])


@pytest.mark.parametrize("name", [None, 3, ["softmax"]])
def test_rejects_a_name_that_is_not_a_string(name):
    with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN: Expected one of \['angular'.*Received: "):
        create_loss(name)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_an_unknown_parameter_is_named_with_the_known_ones(name):
    with pytest.raises(
        UsageError, match=rf"E_PARAMETER_UNKNOWN: '{name}' takes \[.*\]\. Received unknown: \['mragin'\]"
    ):
        make(name, mragin=1.0)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_rejects_a_missing_number_of_classes(name):
    required = inspect.signature(LOSSES[name]).parameters.get("num_classes")
    if required is None or required.default is not inspect.Parameter.empty:
        pytest.skip("does not need it")
    with pytest.raises(UsageError, match=rf"E_PARAMETER_MISSING: '{name}' needs \['num_classes'\]"):
        create_loss(name)


@pytest.mark.parametrize("wrong", ["softmax", {"params": {}}, {"name": "softmax", "parms": {}}, {"name": "sotfmax"}])
@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("cross_batch_memory", "loss"),
        ("ensemble", "members"),
        ("hybrid", "pair"),
        ("hybrid", "proxy"),
        ("mined", "loss"),
        ("mined", "miner"),
        ("regularized", "loss"),
        ("regularized", "embeddings_regularizer"),
        ("self_supervised", "loss"),
    ],
)
def test_rejects_malformed_parts(name, parameter, wrong):
    with pytest.raises((ValueError, UsageError), match=r"Expected `.*Received|Unknown name 'sotfmax'.*Known"):
        make(name, **{parameter: [wrong] if parameter == "members" else wrong})


def test_a_learner_rejects_what_its_loss_rejects():
    from anchorage.learner import MetricLearner

    learner = MetricLearner(keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM)]), make("softmax"))
    learner.compile(optimizer="sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"Expected `labels` in 0 \.\. 2"):
        learner.train_on_batch(EMBEDDINGS, LABELS + 1)
