"""Samples of live queries: what is stored, how many, and with which chance."""

from collections import Counter

import numpy as np
import pytest
from releases import draw_images
from services import running

from anchorage.release.query_samples import QueryStore
from anchorage_pipeline.serving.metrics import Metrics
from anchorage_pipeline.serving.sampling import QuerySampler


def test_images_and_vectors_are_sampled_without_the_images_and_up_to_the_bound(published, tmp_path):
    url = f"sqlite:///{tmp_path}/items.sqlite"
    with running(published, store=url, sample_queries=3) as client:
        image = draw_images(1, seed=9)[0]
        answers = [client.post("/v1/search?k=1", content=image, headers={"Content-Type": "image/png"})]
        known = client.get("/v1/items").json()["items"][0]["id"]
        client.post("/v1/search", json={"id": known})  # not a query from outside: never sampled
        filtered = '{"attributes": {"color": "red"}}'
        answers += [
            client.post(f"/v1/search?k=1&filter={filtered}", content=image, headers={"Content-Type": "image/png"})
            for _ in range(4)
        ]
        assert [answer.status_code for answer in answers] == [200] * 5
        fingerprint = client.service.releases.current.fingerprint
        assert not QueryStore(url).read(fingerprint)  # stored at the end of the period
    samples = QueryStore(url).read(fingerprint)
    assert len(samples) == 3
    first = answers[0].json()
    for sample in samples:
        assert sample.version == first["release"]["version"]
        assert sample.distance == pytest.approx(1 - first["results"][0]["score"], abs=1e-6)
        assert sample.unknown == first["unknown"]
        assert np.linalg.norm(sample.vector) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "items.sqlite").read_bytes().find(image[:64]) < 0


def test_nothing_is_sampled_unless_asked(published, tmp_path):
    url = f"sqlite:///{tmp_path}/items.sqlite"
    with running(published, store=url) as client:
        client.post("/v1/search", content=draw_images(1, seed=9)[0], headers={"Content-Type": "image/png"})
        fingerprint = client.service.releases.current.fingerprint
    assert not QueryStore(url).read(fingerprint)


def test_each_query_of_a_period_has_the_same_chance():
    drawn = Counter()
    for _ in range(2000):
        sampler = QuerySampler(2, 3600, None, Metrics())
        sampler._task = object()  # as if started
        for number in range(8):
            sampler.offer(1, "", np.array([number]), 0.5, None)
        drawn.update(int(query.vector[0]) for query in sampler._kept)
    # 2 of 8 in 2000 periods: 500 each, standard deviation 19.4
    assert all(abs(drawn[number] - 500) < 4.5 * 19.4 for number in range(8))
