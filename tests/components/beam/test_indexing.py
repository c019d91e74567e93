"""Shards of an index, built by workers of Beam: together they find what exact search of all rows finds."""

import numpy as np
import pytest

from anchorage.errors import ResourceError
from anchorage.retrieval.index import search
from anchorage.retrieval.index_building import build_index
from anchorage_components.beam import indexing
from anchorage_components.beam.indexing import shard_builder
from anchorage_components.beam.options import beam_options


@pytest.fixture
def file(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    np.save(tmp_path / "vectors.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return tmp_path / "vectors.npy"


def test_shards_together_find_the_exact_neighbors(file):
    vectors = np.load(file, mmap_mode="r")
    index = build_index(vectors, shard_rows=40, build=shard_builder(file, beam_options([])))
    assert index.shards == [33, 33, 34]
    queries = vectors[:5]
    found, similarities = search(index, queries, 50)
    exact = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :50]
    assert found.tolist() == exact.tolist()
    np.testing.assert_allclose(similarities, np.take_along_axis(queries @ vectors.T, exact, axis=1), atol=1e-6)
    assert list(file.parent.iterdir()) == [file]  # what the workers wrote is gone


def test_a_gallery_of_one_shard_needs_no_workers(file, monkeypatch):
    monkeypatch.setattr(indexing, "run_jobs", lambda *_, **__: pytest.fail("a job was run"))
    vectors = np.load(file)
    assert build_index(vectors, build=shard_builder(file, beam_options([]))).shards == [100]


def test_a_shard_that_is_built_twice_is_written_once(file, tmp_path):
    plan, shard = indexing.Plan(0, shards=3), indexing._Shard(1, 33, 66)
    for _ in range(2):
        indexing._build_shard(str(file), str(tmp_path), 5, plan, shard)
    assert indexing.load_searcher(tmp_path / "shard-01").size() == 33


def test_a_full_disk_is_reported(file, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexing, "build_shard", full)
    with pytest.raises(ResourceError, match="E_DISK_FULL"):
        build_index(np.load(file), shard_rows=50, build=shard_builder(file, beam_options([])))
