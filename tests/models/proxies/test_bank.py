"""ProxyBank and the check of class labels against it."""

import numpy as np
import pytest
import tensorflow as tf

from anchorage.labels import check_class_labels
from anchorage.losses import create_loss
from anchorage.proxies.bank import ProxyBank, start_at_class_means


def test_similarities_are_cosines_in_class_order():
    bank = ProxyBank(num_classes=2, per_class=2)
    bank.build((None, 2))
    bank.proxies.assign([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(bank(np.array([[5.0, 0.0]], "float32")), [[1.0, 0.0, -1.0, np.sqrt(0.5)]], rtol=1e-6)


@pytest.mark.parametrize(("stddev", "wanted"), [(None, np.sqrt(2 / 1000)), (0.125, 0.125)])
def test_initial_spread(stddev, wanted):
    bank = ProxyBank(num_classes=500, per_class=2, stddev=stddev)
    bank.build((None, 64))
    assert np.std(bank.proxies.numpy()) == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("size", [{"num_classes": 0}, {"num_classes": 3, "per_class": 0}, {"num_classes": 3.7}])
def test_sizes_that_are_no_counts_are_refused(size):
    with pytest.raises(ValueError, match=r"must be a whole number, at least 1\. Received"):
        ProxyBank(**size)


@pytest.mark.parametrize("stddev", [-1.0, float("nan"), float("inf")])
def test_spread_that_is_none_is_refused(stddev):
    with pytest.raises(ValueError, match=r"`stddev` must be a finite number, at least 0\. Received: stddev="):
        ProxyBank(num_classes=3, stddev=stddev)


def test_labels_in_range_pass_unchanged():
    labels, factor = check_class_labels(np.array([0, 2, 1]), 3)
    np.testing.assert_array_equal(labels, [0, 2, 1])
    assert float(factor) == 1.0


@pytest.mark.parametrize("wrong", [-1, 3, 2**31 - 1])
def test_labels_out_of_range(wrong):
    labels = np.array([0, wrong])
    with pytest.raises(ValueError, match=r"`labels` in 0 .. 2, one set of proxies per class"):
        check_class_labels(labels, 3)
    kept, factor = tf.function(lambda x: check_class_labels(x, 3))(tf.constant(labels))
    assert np.isnan(factor)
    np.testing.assert_array_equal(kept, [0, 0])


@pytest.mark.parametrize("name", ["nivmf", "proxy_nca", "multi_proxy_anchor", "softmax", "arcface"])
def test_proxies_start_at_class_means(name):
    params = {"proxies_per_class": 1} if name == "multi_proxy_anchor" else {}
    loss = create_loss(name, params, num_classes=3)
    loss.build((None, 3), (None,))
    before = loss.proxies.numpy()
    length = np.linalg.norm(before, axis=1).mean() or 1.0
    # Class 0: directions (1, 0, 0) and (0, 1, 0); class 1: one item; class 2: none.
    start_at_class_means(loss, np.array([[5.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.1, 0.0]]), np.array([0, 1, 0]))
    wanted = length * np.array([[np.sqrt(0.5), np.sqrt(0.5), 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(loss.proxies[:2], wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(loss.proxies[2], before[2])


def test_items_are_dealt_among_the_proxies_of_a_class():
    loss = create_loss("soft_triple", {"centers_per_class": 2}, num_classes=2)
    loss.build((None, 4), (None,))
    before, rows = loss.proxies.numpy(), np.eye(4)
    start_at_class_means(loss, rows, np.array([0, 0, 0, 1]), seed=3)
    found = loss.proxies.numpy() / np.linalg.norm(before, axis=1).mean()
    np.testing.assert_allclose(np.sort(found[:2], axis=1)[:, 2:].ravel()[[0, 1, 3]] ** 2, [0.5, 0.5, 1.0], atol=1e-5)
    assert (found[:2] > 0).sum(axis=0).tolist() == [1, 1, 1, 0]  # every item of class 0 in one of them
    np.testing.assert_allclose(found[2], rows[3], atol=1e-6)
    np.testing.assert_array_equal(loss.proxies[3], before[3])


def test_warm_start_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"a built loss with proxies for each class. Received: ContrastiveLoss"):
        start_at_class_means(create_loss("contrastive"), np.eye(2), np.array([0, 1]))
    loss = create_loss("cosface", num_classes=2)
    loss.build((None, 3), (None,))
    with pytest.raises(ValueError, match=r"one label per embedding of size 3"):
        start_at_class_means(loss, np.eye(2), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"`labels` in 0 .. 1"):
        start_at_class_means(loss, np.eye(3), np.array([0, 1, 2]))
