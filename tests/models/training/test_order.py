"""A training step reads every weight before it updates it, in the graph that TensorFlow really runs."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from anchorage.training.run import train_run

WRITES = ("AssignVariableOp", "AssignSubVariableOp", "AssignAddVariableOp")
GENERATOR = {"name": "novel_class_generator", "params": {"warmup": 1, "hidden": 8, "noise_size": 4}}


def optimised_graphs(learner):
    """The graphs of one step after TensorFlow's optimizers, largest first."""
    images, labels = np.zeros((8, 16, 16, 3), "float32"), np.repeat(np.arange(4, dtype="int32"), 2)
    step = tf.function(lambda x, y: learner.train_step((x, y)))
    context.enable_run_metadata()
    try:
        step(tf.constant(images), tf.constant(labels))
        functions = context.export_run_metadata().function_graphs
    finally:
        context.disable_run_metadata()
    return sorted((f.post_optimization_graph for f in functions), key=lambda graph: -len(graph.node))


def out_of_order(graph):
    """Reads of a variable that its update does not wait for, and the number of all."""
    nodes = {node.name: node for node in graph.node}
    before = {name: {i.lstrip("^").split(":")[0] for i in node.input} for name, node in nodes.items()}

    def waits_for(name):
        seen, left = set(), [name]
        while left:
            fresh = before.get(left.pop(), set()) - seen
            seen |= fresh
            left.extend(fresh)
        return seen

    def variable(node):
        name = node.input[0]
        while nodes[name.split(":")[0]].op in ("Switch", "Identity"):
            name = nodes[name.split(":")[0]].input[0]
        return name

    reads = [node for node in graph.node if node.op == "ReadVariableOp"]
    writes = {node.name: variable(node) for node in graph.node if node.op in WRITES}
    awaited = {name: waits_for(name) for name in writes}
    pairs = [(read.name, write) for read in reads for write, written in writes.items() if variable(read) == written]
    loose = [(r, w) for r, w in pairs if r not in awaited[w] and w not in waits_for(r)]
    return loose, len(pairs)


@pytest.mark.parametrize(
    ("loss", "methods"),
    [
        pytest.param(
            {"name": "multi_proxy_anchor", "params": {"proxies_per_class": 1}},
            [GENERATOR],
            id="novel_class_generator",
            marks=pytest.mark.thorough,
        ),
        pytest.param({"name": "pce"}, [], id="pce"),
    ],
)
def test_a_weight_is_read_before_it_is_updated(loss, methods, store, validation_store, settings):
    arguments = settings(epochs=1, steps_per_epoch=1, methods=methods) | {"loss": loss}
    [largest, *_] = optimised_graphs(train_run(store, validation_store, **arguments).learner)
    loose, pairs = out_of_order(largest)
    assert pairs > 20  # the graph is the one of a step
    assert loose == []
