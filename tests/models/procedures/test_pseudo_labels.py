"""Pseudo-labels against the published cases and their properties."""

import keras
import numpy as np
import pytest

from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.procedures.pseudo_labels import PseudoLabels, accept_labels, class_proxies, guess_labels

FILE = "17-annotation-efficient"


@pytest.mark.parametrize("name", ["pseudo_labels_tau0.8", "pseudo_labels_tau0.6_cap2"])
def test_published_cases(case, name):
    found = case(FILE, name)
    inputs, params, expected = found["inputs"], found["params"], found["expected"]
    guesses = guess_labels(
        np.array(inputs["unlabelled_embeddings"]), np.array(inputs["proxies"]), params["temperature"]
    )
    assert guesses.labels.tolist() == expected["label"]
    np.testing.assert_allclose(guesses.confidences, expected["confidence"], rtol=1e-10)
    accepted = accept_labels(guesses, params["tau"], params["cap_per_class"])
    assert accepted.tolist() == expected["accepted"]


def test_acceptance():
    random = np.random.default_rng(0)
    guesses = guess_labels(random.normal(size=(200, 3)), random.normal(size=(5, 3)))
    assert accept_labels(guesses, 0.0).all()
    assert not accept_labels(guesses, 1.0 + 1e-9).any()
    counts = [accept_labels(guesses, tau).sum() for tau in np.linspace(0, 1, 11)]
    assert counts == sorted(counts, reverse=True)
    capped = accept_labels(guesses, 0.3, cap=4)
    assert np.bincount(guesses.labels[capped]).max() == 4
    near = accept_labels(guesses, 0.0, least_similarity=0.9)
    np.testing.assert_array_equal(near, guesses.similarities >= 0.9)


def test_ties_go_to_the_first():
    guesses = guess_labels(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, -1.0]]))
    assert (guesses.labels.tolist(), guesses.confidences.tolist()) == ([0], [0.5])
    equal = PseudoLabels(np.zeros(3, int), np.full(3, 0.9), np.ones(3))
    assert accept_labels(equal, cap=2).tolist() == [True, True, False]


def test_nothing_to_label():
    guesses = guess_labels(np.empty((0, 2)), np.eye(2))
    assert accept_labels(guesses, cap=1).tolist() == []


@pytest.fixture
def learner(store):
    def make(loss, **params):
        layers = [keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D()]
        learner = MetricLearner(keras.Sequential(layers), create_loss(loss, params, num_classes=8))
        learner.compile("sgd")
        learner.build((None, 16, 16, 3))
        return learner

    return make


def test_classes_stand_where_their_proxies_or_means_are(store, learner):
    proxied = learner("proxy_nca")
    np.testing.assert_array_equal(class_proxies(proxied, store), proxied.loss_layer.proxies)
    colours = store.read(np.arange(48)).mean(axis=(1, 2))
    colours = colours / np.linalg.norm(colours, axis=1, keepdims=True)
    means = np.stack([colours[store.labels == label].sum(axis=0) for label in range(8)])
    for other in (learner("contrastive"), learner("multi_proxy_anchor", proxies_per_class=2)):
        np.testing.assert_allclose(class_proxies(other, store), means, rtol=1e-4)
