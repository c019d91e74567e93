"""`anchorage drift` on a small release: status, report, and the queries in the store or in a table."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from vector_releases import publish_vectors, unit_vectors

from anchorage.release.items import default_store
from anchorage.release.query_samples import QueryStore, SampledQuery
from anchorage_pipeline.cli import main

ROWS = unit_vectors(300)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return publish_vectors(tmp_path_factory.mktemp("drift"), ROWS)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, vectors, **metadata):
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"vector": column})
    parquet.write_table(table.replace_schema_metadata(metadata or None), path)
    return str(path)


def drift(release, *options):
    return main(["drift", "--release", str(release.path.parent), "--window", "60", *options])


def test_queries_like_the_gallery_are_no_drift_and_the_release_says_what_it_lacks(release, tmp_path, capsys):
    table = write(tmp_path / "queries.parquet", unit_vectors(120, seed=5))
    assert drift(release, "--queries", table) == 0
    printed = capsys.readouterr().out
    assert "No drift in 2 windows" in printed
    assert "its gallery is the reference" in printed


def test_other_queries_are_drift_and_the_page_needs_no_network(release, tmp_path, capsys):
    vectors = unit_vectors(60, seed=6) * 0.2 + np.eye(8, dtype=np.float32)[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = write(tmp_path / "queries.parquet", vectors, model_fingerprint=release.model_fingerprint)
    assert drift(release, "--queries", table, "--output", "out", "--json") == 5
    captured = capsys.readouterr()
    assert captured.err.startswith("anchorage: E_DRIFT: Drift in one window")
    document = json.loads(captured.out)
    assert document["drift"]
    assert json.loads((tmp_path / "out/drift.json").read_text())["windows"] == document["windows"]
    page = (tmp_path / "out/drift.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 4
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_sampled_queries_come_from_the_store(release, capsys):
    store = QueryStore(default_store(release.path.parent))
    samples = [
        SampledQuery(float(place), 1, release.model_fingerprint, vector, 0.1, None)
        for place, vector in enumerate(unit_vectors(70, seed=7))
    ]
    store.write(samples)
    store.close()
    assert drift(release) == 0
    assert "window    1 1970-01-01T00:00:10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "status", "message"),
    [
        (lambda path: write(path, unit_vectors(20)), 3, "E_QUERIES_FEW"),
        (lambda path: write(path, unit_vectors(60, dimension=5)), 3, "E_QUERY_SHAPE"),
        (lambda path: write(path, unit_vectors(60), model_fingerprint="f" * 64), 3, "E_RELEASE_MIXED"),
        (lambda path: str(path), 3, "E_TABLE_MISSING"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(release, tmp_path, capsys, make, status, message):
    assert drift(release, "--queries", make(tmp_path / "queries.parquet")) == status
    assert message in capsys.readouterr().err


def test_without_sampled_queries_the_command_says_how_to_get_them(tmp_path, capsys):
    other = publish_vectors(tmp_path, ROWS[:50])
    assert drift(other) == 2
    assert "E_QUERIES_MISSING" in capsys.readouterr().err
