import itertools

import numpy as np
import pytest

from anchorage.errors import DataError
from anchorage.retrieval.clustering import cluster_metrics, compare_clusters


def blobs(rows=90, classes=6, noise=0.05):
    rng = np.random.default_rng(1)
    labels = np.arange(rows) % classes
    return rng.normal(size=(classes, 5))[labels] + noise * rng.normal(size=(rows, 5)), labels


def test_hand_worked_pairs():
    # classes aab, clusters 001: pairs together 1 (aa) of 1 found and 1 to find. Classes aabb, clusters 0111:
    # found 3 pairs, of them bb right; to find 2 (aa, bb): precision 1/3, recall 1/2
    assert compare_clusters(list("aab"), [0, 0, 1])["f1"] == 1
    assert compare_clusters(list("aabb"), [0, 1, 1, 1])["f1"] == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


def test_f1_equals_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(0, 4, 40), rng.integers(0, 5, 40)
    same = [(labels[i] == labels[j], clusters[i] == clusters[j]) for i, j in itertools.combinations(range(40), 2)]
    both = sum(a and b for a, b in same)
    precision, recall = both / sum(b for _, b in same), both / sum(a for a, _ in same)
    assert compare_clusters(labels, clusters)["f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_classes_that_lie_apart_are_found_and_seeds_repeat():
    vectors, labels = blobs()
    found = cluster_metrics(vectors, labels.astype(str), seed=2)
    assert found["method"] == "k-means"
    assert found["clusters"] == 6
    assert min(found["nmi"], found["ami"], found["f1"]) > 0.8
    assert cluster_metrics(vectors, labels.astype(str), seed=2) == found
    shuffled = cluster_metrics(vectors, np.random.default_rng(0).permutation(labels))
    assert abs(shuffled["ami"]) < 0.05 < shuffled["nmi"]  # chance is 0 for AMI only


def test_large_work_is_done_in_batches(monkeypatch):
    monkeypatch.setattr("anchorage.retrieval.clustering._EXACT_WORK", 10)
    vectors, labels = blobs()
    found = cluster_metrics(vectors, labels)
    assert found["method"] == "k-means in batches of 4,096"
    assert found["nmi"] > 0.6


def test_more_clusters_than_images():
    with pytest.raises(DataError, match=r"E_CLUSTERS: Expected from 1 to 90 clusters. Received: 91"):
        cluster_metrics(*blobs(), clusters=91)
