"""What the tests of the losses share on TensorFlow, JAX and PyTorch: gradients, and the record of a conformance run."""

import json
import platform
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.backend.common import dtypes

from anchorage.proxies.bank import ProxyBank

BACKEND = keras.backend.backend()


@contextmanager
def double_precision():
    """Inside, the backend computes in float64 where asked to, as TensorFlow always does.

    Keras turns float64 into float32 on JAX and PyTorch wherever two dtypes meet; the table that says so is changed.
    """
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
        if BACKEND == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        yield


def differentiate(function, *arrays, weights=(), states=()):
    """Value and gradients of a scalar function.

    Args:
        function: called with a tensor for each of `arrays`.
        *arrays: NumPy arrays to differentiate by.
        weights: Keras variables to differentiate by as well.
        states: Keras variables that the function may assign to.

    Returns:
        A float, and a list of NumPy arrays: zeros where nothing depends on the source.
    """
    value, gradients = _BACKENDS[BACKEND](function, arrays, list(weights), list(states))
    return float(value), [keras.ops.convert_to_numpy(gradient) for gradient in gradients]


def _tensorflow(function, arrays, weights, _states):
    import tensorflow as tf

    sources = [tf.Variable(array) for array in arrays]
    with tf.GradientTape() as tape:
        value = function(*sources)
    gradients = tape.gradient(value, [*sources, *(w.value for w in weights)], unconnected_gradients="zero")
    return value, [tf.convert_to_tensor(gradient) for gradient in gradients]


def _jax(function, arrays, weights, states):
    import jax

    others = [state for state in states if not any(state is weight for weight in weights)]

    def pure(arrays, values):
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))) as scope:
            value = function(*arrays)
        found = [scope.get_current_value(state) for state in others]
        return value, [state.value if new is None else new for state, new in zip(others, found, strict=True)]

    start = [jax.numpy.asarray(array) for array in arrays], [weight.value for weight in weights]
    (value, after), gradients = jax.value_and_grad(pure, argnums=(0, 1), has_aux=True)(*start)
    for state, new in zip(others, after, strict=True):
        state.assign(new)
    return value, [*gradients[0], *gradients[1]]


def _torch(function, arrays, weights, _states):
    import torch

    sources = [torch.tensor(array, requires_grad=True) for array in arrays]
    value = function(*sources)
    sources += [weight.value for weight in weights]
    gradients = [None] * len(sources)
    if value.requires_grad:
        gradients = torch.autograd.grad(value, sources, allow_unused=True)
    return value, [
        torch.zeros_like(source) if found is None else found for source, found in zip(sources, gradients, strict=True)
    ]


def stateless_slopes(loss):
    """On JAX: value and gradients of `loss` and its weights, compiled once for each shape; the states stay."""
    import jax

    def pure(trainable, embeddings, others, labels):
        return loss.stateless_call(trainable, others, embeddings, labels)[0]

    compiled = jax.jit(jax.value_and_grad(pure, argnums=(0, 1)))

    def measure(embeddings, labels):
        if not loss.built:
            loss(keras.KerasTensor(embeddings.shape, loss.dtype), keras.KerasTensor(labels.shape, "int32"))
        start = [v.value for v in loss.trainable_variables], embeddings, [v.value for v in loss.non_trainable_variables]
        value, (of_weights, of_embeddings) = compiled(*start, labels)
        return float(value), [np.asarray(gradient) for gradient in (of_embeddings, *of_weights)]

    return measure


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def slopes_of(loss):
    """A function of embeddings and labels: value, and gradients of the embeddings and of every weight."""
    if BACKEND == "jax":
        return stateless_slopes(loss)
    states = {"weights": loss.trainable_weights, "states": loss.variables}
    return lambda embeddings, labels: differentiate(lambda x: loss(x, labels), embeddings, **states)


# How a loss is compiled on each backend: TensorFlow's graphs and XLA, JAX's jit, PyTorch's compiler.
COMPILERS = {"tensorflow": ("graph", "xla"), "jax": ("jit",), "torch": ("compile",)}[BACKEND]


def compile_loss(loss, dim):
    """`loss` compiled in each of `COMPILERS`, by name.

    Args:
        loss: a built layer; the functions start from the state it is in.
        dim: size of the embeddings.

    Returns:
        Functions of embeddings and labels that give the value, and the gradients of the embeddings and every weight.
    """
    if BACKEND == "jax":
        return {"jit": stateless_slopes(loss)}
    if BACKEND == "torch":
        import torch

        torch._dynamo.reset()  # what other losses left compiled is none of this one's business
        compiled = torch.compile(lambda embeddings, labels: loss(embeddings, labels), backend="aot_eager")

        def step(embeddings, labels):
            return differentiate(
                lambda x: compiled(x, torch.as_tensor(labels)), embeddings, weights=loss.trainable_weights
            )

        return {"compile": step}
    import tensorflow as tf

    signature = [tf.TensorSpec((None, dim)), tf.TensorSpec((None,), tf.int64)]

    def measure(embeddings, labels):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(embeddings, labels)
        sources = [embeddings, *(weight.value for weight in loss.trainable_weights)]
        return value, [tf.convert_to_tensor(g) for g in tape.gradient(value, sources, unconnected_gradients="zero")]

    graph = tf.function(measure, input_signature=signature)
    # XLA compiles the trace of the graph, unless that has branches, whose gradients TensorFlow traces anew for it.
    traced = graph.get_concrete_function().graph.as_graph_def()
    nodes = [*traced.node, *(node for function in traced.library.function for node in function.node_def)]
    branches = any(node.op in ("If", "StatelessIf") for node in nodes)
    compiled = measure if branches else lambda embeddings, labels: graph(embeddings, labels)
    return {"graph": graph, "xla": tf.function(compiled, jit_compile=True, input_signature=signature)}


def needs_dense_labels(loss):
    """Whether labels are rows of one of its weights, or counted up to a number of classes."""
    wrappers = ("inner", "losses_of_members", "pair_loss")
    for part in loss._flatten_layers():
        if isinstance(part, ProxyBank) or any(hasattr(part, name) for name in wrappers):
            continue
        free = getattr(part, "assignment", None) in ("random", "dynamic") or getattr(part, "classes", None) == "batch"
        if not free and (getattr(part, "num_classes", None) or hasattr(part, "assignment")):
            return True
    return False


class Measured:
    """The largest difference of each loss from its oracle, in float64 and in float32."""

    def __init__(self):
        self.largest = defaultdict(lambda: defaultdict(float))
        self.cases = defaultdict(set)

    def agree(self, loss, case, dtype, found, wanted, tolerance):
        """Assert that every number is within `tolerance * max(1, largest wanted one)`, and note how near it is."""
        found, wanted = np.asarray(found, "float64"), np.asarray(wanted, "float64")
        assert found.shape == wanted.shape
        apart = np.abs(found - wanted).max(initial=0.0) / max(1.0, np.abs(wanted).max(initial=0.0))
        assert apart <= tolerance, f"{loss}, {case}: {apart:.2e} from the oracle.\nFound {found}\nWanted {wanted}"
        self.largest[loss][dtype] = max(self.largest[loss][dtype], float(apart))
        self.cases[loss].add(case)


_MEASURED = Measured()
agree = _MEASURED.agree


def pytest_sessionfinish(session, exitstatus):
    folder = session.config.getoption("conformance")
    if folder is None:
        return
    package = "tensorflow-cpu" if BACKEND == "tensorflow" else BACKEND
    facts = {
        "backend": BACKEND,
        "versions": {"keras": version("keras"), package: version(package), "python": platform.python_version()},
        "passed": int(exitstatus) == 0,
        "tests": session.testscollected,
        "losses": {
            loss: {"cases": len(_MEASURED.cases[loss]), **_MEASURED.largest[loss]} for loss in sorted(_MEASURED.cases)
        },
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{BACKEND}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
