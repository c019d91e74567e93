"""Promises every loss in the table keeps, on every backend; a new entry is covered without new code."""

import inspect
import json
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from backends import BACKEND, COMPILERS, compile_loss, differentiate, double_precision, needs_dense_labels, slopes_of
from keras import ops

from anchorage.learner import MetricLearner
from anchorage.losses import LOSSES, create_loss

slow = pytest.mark.slow  # minutes for the whole table; for one loss: `pytest -k <its name>` on this file

ROWS, DIM, CLASSES, MANY_CLASSES = 12, 8, 4, 30
# Settings that reach other code than the defaults do; they include every choice of every loss.
MORE_SETTINGS = json.loads((Path(__file__).parents[2] / "data" / "loss_settings.json").read_text())


def always(_):
    return True


def never(_):
    return False


# Promises that a loss cannot keep: why, and with which parameters.
ORDERED = {
    "manifold": ("proxies are drawn at random", lambda params: params.get("assignment") != "labels"),
    "n_pair": ("the first two of a class are anchor and positive", always),
    "self_supervised": ("the first two of a label are the two views", always),
    "soprc": ("the last of a class writes its sketch", lambda params: params.get("published_code")),
    "vicreg": ("the first two of a label are the two views", always),
}
# The draws are others in float64, in a compiled graph of another backend or under XLA.
RANDOM = {
    "margin": (
        "triplets are drawn at random",
        lambda params: params.get("mining") != "all" or "triplets_per_anchor" in params,
    ),
    "mined": (
        "pairs are drawn at random",
        lambda params: params.get("miner", {}).get("name") in ("distance_weighted", "uniform_histogram"),
    ),
    "nivmf": ("draws from distributions", lambda params: params.get("metric", "el_nivmf") == "el_nivmf"),
}
# Losses that hold positives against negatives: with one kind alone there is nothing to learn.
_ALWAYS = ("angular", "cbml", "circle", "dynamic_soft_margin", "fast_ap", "histogram", "lifted_structure", "margin")
BOTH_KINDS = {
    **dict.fromkeys((*_ALWAYS, "nca", "nt_xent", "self_supervised", "sup_con", "triplet", "tuplet_margin"), always),
    "cross_batch_memory": lambda params: params.get("loss", {}).get("name") in BOTH_KINDS,
    "general_pair_weighting": lambda params: (
        params.get("weighting", "multi_similarity") == "multi_similarity" and params.get("mining", True)
    ),
    "mined": lambda params: params.get("loss", {}).get("name") in BOTH_KINDS,
    "multi_similarity": lambda params: params.get("mining", True),
}
NOTHING_TO_LEARN = {
    "one class": BOTH_KINDS | dict.fromkeys(("pnp", "smooth_ap"), always),  # ranks before nothing
    "no positives": BOTH_KINDS | dict.fromkeys(("n_pair", "vicreg"), always),  # no pair
}
SETTINGS = [(name, params) for name in sorted(LOSSES) for params in ({}, *MORE_SETTINGS.get(name, ()))]


DEFAULTS = pytest.mark.parametrize(
    "setting", [setting for setting in SETTINGS if not setting[1]], ids=sorted(LOSSES), indirect=True
)
ORDERED_SETTINGS = [
    (name, params) for name, params in SETTINGS if name != "manifold" and ORDERED.get(name, ("", never))[1](params)
]


# What `make test` runs of the settings that are not a loss's defaults; the defaults get every case.
KEPT_CASES = {
    "test_class_ids_are_only_names": never,
    "test_config_holds_every_constructor_argument": never,
    "test_float32_is_near_float64": never,
    "test_finite_on_degenerate_batches": lambda case: (case["batch_of"], case["points"]) == ("one class", "equal"),
    "test_finite_where_all_points_of_all_classes_coincide": never,
    "test_ignores_row_order": never,
    "test_learner_takes_the_same_next_step_after_loading": never,
    "test_what_is_not_finite_costs_nan_and_leaves_no_trace": lambda case: case["place"] is ...,
}


# The defaults that `make test` and `make conformance` compile with XLA and PyTorch, up to 40 seconds for a loss;
# they compile all as graphs of TensorFlow and on JAX.
KEPT_COMPILED = ("arcface", "cross_batch_memory", "ensemble", "multi_proxy_anchor", "roadmap", "soprc", "triplet")


# Losses that `make test` saves and loads in a learner: each kind of weight and state.
KEPT_SAVED = ("arcface", "cross_batch_memory", "hybrid", "margin", "multi_proxy_anchor", "soprc")


def is_thorough(item):
    kept = KEPT_CASES.get(getattr(item, "originalname", None))
    if not hasattr(item, "callspec"):
        return False
    case = item.callspec.params
    if (
        item.originalname == "test_learner_takes_the_same_next_step_after_loading"
        and case["setting"][0] not in KEPT_SAVED
    ):
        return True
    if case.get("compiler") == "xla" or (BACKEND == "torch" and "compiled" in item.fixturenames):
        return case["setting"][0] not in KEPT_COMPILED
    return bool(kept and case["setting"][1] and not kept(case))


def setting_id(setting):
    return "-".join([setting[0], *map(str, setting[1].values())])


@pytest.fixture(scope="module", params=SETTINGS, ids=setting_id)
def setting(request):
    return request.param


@pytest.fixture(scope="module")
def loss(setting):
    name, params = setting
    return build(create_loss(name, params, num_classes=CLASSES)) if params else default(name)[0]


@cache
def default(name):
    """A loss as it is by default, and each way of the backend to compile it, by name."""
    loss = build(create_loss(name, num_classes=MANY_CLASSES))
    return loss, compile_loss(loss, DIM)


def build(loss):
    """Make the weights, and move them off a start at zero, where gradients vanish."""
    loss(*_BATCH, training=False)
    rng = np.random.default_rng(7)
    for weight in loss.trainable_weights:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    loss.first_state = [ops.convert_to_numpy(variable.value) for variable in loss.variables]
    return loss


def excuse(reasons, setting):
    """Skip what this setting cannot promise."""
    name, params = setting
    reason, holds = reasons.get(name, ("", never))
    if holds(params):
        pytest.skip(reason)


def rewind(loss):
    """Back to the first state, draws and moving averages included."""
    for variable, value in zip(loss.variables, loss.first_state, strict=True):
        variable.assign(value)


def _batch():
    rng = np.random.default_rng(1)
    labels = np.array([0, 0, 1, 1, 2, 3, 0, 2, 1, 3, 2, 3])  # some pairs side by side, some half a batch apart
    # Classes that overlap, so that losses with miners find something too.
    return (rng.normal(size=(ROWS, DIM)) + 0.7 * np.eye(CLASSES, DIM)[labels]).astype("float32"), labels


_BATCH = _batch()


@pytest.fixture(scope="module")
def batch():
    return _BATCH


@pytest.fixture(scope="module")
def slopes(setting, loss):
    """Value from the first state, and gradients of the embeddings and of every weight.

    Of a default from its graph, where a batch takes a twentieth of the time; other settings have too few batches.
    """
    as_graph = BACKEND == "tensorflow" and not setting[1]
    return rewound(loss, default(setting[0])[1]["graph"] if as_graph else slopes_of(loss))


@pytest.fixture(scope="module")
def eager_slopes(loss):
    states = {"weights": loss.trainable_weights, "states": loss.variables}
    return rewound(loss, lambda embeddings, labels: differentiate(lambda x: loss(x, labels), embeddings, **states))


@pytest.fixture(scope="module")
def of_batch(batch, slopes):
    """Value and gradients of the batch."""
    return slopes(*batch)


def rewound(loss, measure):
    def run(embeddings, labels):
        rewind(loss)
        value, gradients = measure(embeddings, labels)
        return float(value), [ops.convert_to_numpy(gradient) for gradient in gradients]

    return run


@slow
def test_is_a_finite_float32_scalar(loss, batch):
    value = loss(*batch)
    assert value.shape == ()
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert np.isfinite(float(value))


@slow
def test_ignores_row_order(setting, batch, slopes, of_batch):
    excuse(ORDERED, setting)
    excuse(RANDOM, setting)
    embeddings, labels = batch
    order = np.random.default_rng(2).permutation(ROWS)
    value, _ = of_batch
    assert slopes(embeddings[order], labels[order])[0] == pytest.approx(value, rel=1e-5)


@slow
def test_float32_is_near_float64(setting, loss, batch, of_batch):
    excuse(RANDOM, setting)
    embeddings, labels = batch
    value, (gradient, *_) = of_batch
    with double_precision():
        exact = type(loss).from_config({**loss.get_config(), "dtype": "float64"})
        exact(embeddings.astype("float64"), labels)  # makes the weights
        exact.first_state = loss.first_state
        rewind(exact)
        wanted, (wanted_gradient, *_) = slopes_of(exact)(embeddings.astype("float64"), labels)
    assert value == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-3, atol=1e-5 * np.abs(wanted_gradient).max())


@slow
def test_gradient_reaches_embeddings_and_weights(of_batch):
    _, gradients = of_batch
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.any(gradient)


@slow
@pytest.mark.parametrize("batch_of", ["one class", "one item", "no positives"])
@pytest.mark.parametrize("points", ["random", "equal", "zero"])
def test_finite_on_degenerate_batches(setting, loss, batch, slopes, batch_of, points):
    labels = {"one class": [2] * ROWS, "one item": [3], "no positives": [0, 1, 2, 3]}[batch_of]
    embeddings = batch[0][: len(labels)] * (points != "zero")
    if points == "equal":
        embeddings = np.broadcast_to(embeddings[:1], embeddings.shape).copy()
    value, gradients = slopes(embeddings, np.array(labels))
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    name, params = setting
    most = 1e-5  # what rounding leaves of shares that add up to 1
    if batch_of == "one item":  # no pair at all, and no class to hold it against
        most, nothing = 0, not loss.trainable_weights and getattr(loss, "classes", "batch") != "all"
    else:
        nothing = NOTHING_TO_LEARN[batch_of].get(name, never)(params)
    if nothing:
        assert abs(value) <= most
        assert all(np.abs(gradient).max() <= most for gradient in gradients)


@slow
def test_finite_where_all_points_of_all_classes_coincide(loss, batch, slopes):
    value, gradients = slopes(np.ones_like(batch[0]), batch[1])
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@slow
@pytest.mark.parametrize(("place", "wrong"), [(..., np.nan), ((3, 2), np.inf), ((3, 2), -np.inf)])
def test_what_is_not_finite_costs_nan_and_leaves_no_trace(loss, batch, slopes, place, wrong):
    embeddings = batch[0].copy()
    embeddings[place] = wrong
    value, (gradient, *_) = slopes(embeddings, batch[1])
    assert np.isnan(value)
    assert np.isnan(gradient).all()
    rewind(loss)
    before = [ops.convert_to_numpy(weight.value) for weight in loss.non_trainable_weights]
    assert np.isnan(float(loss(embeddings, batch[1])))
    for weight, old in zip(loss.non_trainable_weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight.value), old)


@slow
def test_class_ids_are_only_names(loss, batch, eager_slopes):
    if needs_dense_labels(loss):
        pytest.skip("its labels are rows of a weight")
    embeddings, labels = batch
    # 2**31 - 1 and 2**31 - 2 are one number in float32
    names = np.array([2**31 - 1, 2**31 - 2, 5, 0], "int32")
    value, _ = eager_slopes(embeddings, labels.astype("int32"))
    assert eager_slopes(embeddings, names[labels])[0] == pytest.approx(value, rel=1e-5)


@slow
def test_config_holds_every_constructor_argument(loss):
    arguments = set(inspect.signature(type(loss)).parameters) - {"kwargs"}
    assert arguments <= set(loss.get_config())
    config = json.loads(json.dumps(loss.get_config()))  # what is saved
    assert type(loss).from_config(config).get_config() == loss.get_config()
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))  # by its registered name
    again = keras.saving.deserialize_keras_object(saved)
    assert again.get_config() == loss.get_config()
    if loss.weights:
        again(*_BATCH, training=False)
        assert [weight.shape for weight in again.weights] == [weight.shape for weight in loss.weights]


@slow
@pytest.mark.thorough  # the graph of each default takes them, too
def test_takes_batches_of_any_size(setting):
    loss = create_loss(*setting, num_classes=CLASSES)
    assert loss(keras.KerasTensor((None, DIM)), keras.KerasTensor((None,), dtype="int32")).shape == ()


@slow
def test_learner_takes_the_same_next_step_after_loading(setting, loss, batch, tmp_path):
    if not loss.weights:
        pytest.skip("nothing to save but the configuration")
    learner = MetricLearner(keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM)]), loss)
    # Without a graph it is quicker, but for JAX.
    eagerly = keras.backend.backend() != "jax"
    learner.compile(optimizer=keras.optimizers.Adam(0.01), run_eagerly=eagerly)
    learner.train_on_batch(*batch)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    again.run_eagerly = eagerly
    assert len(again.loss_layer.weights) == len(loss.weights)
    assert again.train_on_batch(*batch) == learner.train_on_batch(*batch)
    for ours, theirs in zip(learner.variables, again.variables, strict=True):
        np.testing.assert_array_equal(*(ops.convert_to_numpy(v.value) for v in (ours, theirs)), err_msg=ours.path)


@slow
@pytest.mark.parametrize("setting", ORDERED_SETTINGS, ids=setting_id, indirect=True)
def test_ignores_order_of_whole_classes(setting, batch, slopes):
    """Also where the order within a class, or the places of a pair, matter."""
    embeddings, labels = batch
    rng, layout = np.random.default_rng(2), setting[1].get("layout")
    pairs, half = rng.permutation(ROWS // 2), ROWS // 2
    if layout == "halves":
        order = np.concatenate([pairs, pairs + half])
    elif layout == "interleaved":
        order = np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()
    else:
        order = np.concatenate([np.flatnonzero(labels == label) for label in (2, 0, 3, 1)])
    value, (gradient, *_) = slopes(embeddings, labels)
    turned, (turned_gradient, *_) = slopes(embeddings[order], labels[order])
    assert turned == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(turned_gradient, gradient[order], rtol=1e-3, atol=1e-5 * np.abs(gradient).max())


# The defaults, compiled.
@pytest.fixture(scope="module")
def compiled(setting):
    """Each compiler of the backend, by name: functions of a batch that start from the first state."""
    loss, steps = default(setting[0])
    return {name: rewound(loss, step) for name, step in steps.items()}


@slow
@DEFAULTS
@pytest.mark.parametrize("compiler", COMPILERS)
def test_same_value_and_gradients_compiled(setting, loss, compiled, batch, eager_slopes, compiler):
    if compiler == "xla":
        excuse(RANDOM, setting)
    value, gradients = eager_slopes(*batch)
    found, found_gradients = compiled[compiler](*batch)
    assert found == pytest.approx(value, rel=1e-5)
    for ours, theirs in zip(found_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max())


@slow
@DEFAULTS
def test_ignores_row_order_of_a_large_batch(setting, compiled):
    excuse(ORDERED, setting)
    excuse(RANDOM, setting)
    rng, measure = np.random.default_rng(3), compiled[COMPILERS[0]]
    embeddings, labels = rng.normal(size=(150, DIM)).astype("float32"), np.arange(150) % MANY_CLASSES
    order = rng.permutation(150)
    value, (gradient, *_) = measure(embeddings, labels)
    turned, (turned_gradient, *_) = measure(embeddings[order], labels[order])
    assert turned == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(turned_gradient, gradient[order], rtol=1e-3, atol=1e-5 * np.abs(gradient).max())
