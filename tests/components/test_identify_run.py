"""IdentifyRun: what a run on a cluster starts from, and whether it is needed."""

import json

import numpy as np
from databases import fresh_database
from vector_releases import publish_vectors, unit_vectors

from anchorage.release.items import Item, ItemStore
from anchorage.release.query_samples import QueryStore, SampledQuery
from anchorage.storage import folders, join, write_bytes
from anchorage_components.identify_run import IdentifyRun

LISTING = {"splits": ["train", "test"], "val_share": 0.0, "test_share": 0.5, "seed": 1}


def identify(path, releases, **limits):
    settings = {"limits_json": json.dumps(limits), "listing_json": json.dumps(LISTING)}
    return IdentifyRun.test_call(path=path, releases=str(releases), settings_version="s", **settings)


def test_images_in_a_bucket_are_counted_without_a_copy(bucket, tmp_path, monkeypatch):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/notes.txt"):
        write_bytes(join(bucket, "photos", name), b"never read")
    publish_vectors(tmp_path, unit_vectors(60))
    monkeypatch.setattr(folders, "fetch_object", None)
    found = identify(join(bucket, "photos"), tmp_path / "releases", new_items=3)
    assert found["root"] == join(bucket, "photos")
    assert json.loads(found["trigger"])["reasons"] == ["3 items are not in release 1; the limit is 3."]
    unneeded = identify(join(bucket, "photos"), tmp_path / "releases", new_items=4)
    assert set(unneeded.values()) == {""}


def test_a_store_of_the_service_in_postgresql_gives_the_reasons(tmp_path, postgresql_server):
    release = publish_vectors(tmp_path, unit_vectors(600))
    (tmp_path / "photos/cat").mkdir(parents=True)
    turned = 0.2 * unit_vectors(500, seed=6) + np.eye(8, dtype=np.float32)[0]
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    store = fresh_database(postgresql_server, "gallery")
    limits = {"new_items": 2, "drift": "evaluation", "store": store}
    assert set(identify(str(tmp_path / "photos"), tmp_path / "releases", **limits).values()) == {""}
    ItemStore(store).write([Item(name, "label", vector=np.ones(8, np.float32)) for name in ("new", "newer")])
    queries = QueryStore(store)
    queries.write([SampledQuery(n, 1, release.model_fingerprint, each, 0.1, None) for n, each in enumerate(turned)])
    facts = json.loads(identify(str(tmp_path / "photos"), tmp_path / "releases", **limits)["trigger"])
    new, drifted = facts["reasons"]
    assert new == "2 items are not in release 1; the limit is 2."
    assert drifted.startswith("Drift in one window")
    assert (facts["release"], facts["drift"]["drifted"], facts["drift"]["windows"]) == (1, 1, 1)
