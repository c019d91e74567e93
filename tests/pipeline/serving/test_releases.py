"""Switches of the release: by request, by the pointer on disk, under load, and refused ones."""

import base64
import json
import shutil
import threading
import time

import numpy as np
import pytest
from releases import CALIBRATION, Shrink, draw_images, publish_tiny
from services import WITH_KEY, running

from anchorage.errors import ResourceError, UsageError
from anchorage.release import current_version, roll_back
from anchorage.release.manifest import NAME
from anchorage.serving.follower import Follower
from anchorage_pipeline.serving import releases as serving

PNG = {"Content-Type": "image/png"}


def version_of(client):
    return client.get("/v1/release").json()["version"]


def switch(client, version, path="current"):
    return client.post(f"/v1/releases/{path}", json={"version": version}, headers=WITH_KEY)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.02)


def damage(releases, version):
    file = releases / str(version) / "index/scann/dataset.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def test_a_switch_and_a_rollback_move_the_pointer(client, releases, images):
    assert version_of(client) == 2
    answer = switch(client, 1)
    assert (answer.status_code, answer.json()["version"]) == (200, 1)
    assert (version_of(client), current_version(releases)) == (1, 1)
    found = client.post("/v1/search?k=1", content=images[0], headers=PNG).json()
    assert found["release"] == {"version": 1, "fingerprint": answer.json()["fingerprint"]}
    lines = client.get("/v1/releases").json()["releases"]
    assert [(line["version"], line["current"], line["loaded"]) for line in lines] == [
        (1, True, True),
        (2, False, False),
    ]
    assert switch(client, 2).json()["version"] == 2


def test_the_pointer_on_disk_is_followed(client, releases):
    roll_back(releases, 1)
    wait_for(lambda: version_of(client) == 1)
    assert 'anchorage_switches_total{result="done"} 1.0' in client.get("/metrics").text


def test_a_release_in_shards_answers_as_one_index(client, releases, images):
    """The same images in shards of 4, 4 and 4: switched to, searched, filtered, written to, and switched from."""

    def search(image, **body):
        body |= {"image": base64.b64encode(image).decode(), "k": 5}
        return client.post("/v1/search", json=body).json()["results"]

    filters = [{}, {"filter": {"label": "class-1"}}, {"filter": {"attributes": {"color": "red"}}}]
    expected = [[search(image, **each) for each in filters] for image in images[:3]]
    made = publish_tiny(releases.parent, images, gain=2.0, calibration=CALIBRATION, shard_rows=5)
    wait_for(lambda: version_of(client) == made)
    served = client.get("/v1/release").json()
    assert (served["rows"], served["index"]["shards"]) == (12, [4, 4, 4])
    for image, before in zip(images, expected, strict=False):
        for each, results in zip(filters, before, strict=True):
            found = search(image, **each)
            assert [result["id"] for result in found] == [result["id"] for result in results]
            assert [result["score"] for result in found] == pytest.approx([result["score"] for result in results])
    assert 'anchorage_index_shard_rows{shard="2"} 4.0' in client.get("/metrics").text
    body = {"vector": [1.0] * 48, "label": "new"}
    assert client.put("/v1/items/new", json=body, headers=WITH_KEY).status_code == 200
    assert client.post("/v1/search", json={"vector": [1.0] * 48, "k": 1}).json()["results"][0]["id"] == "new"
    assert client.delete("/v1/items/class-0%2F0.png", headers=WITH_KEY).status_code == 200
    assert "class-0/0.png" not in [result["id"] for result in search(images[3])]
    assert switch(client, 2).json()["index"]["shards"] == [12]
    assert 'shard="2"' not in client.get("/metrics").text


def test_f22_a_damaged_release_is_refused_and_the_old_one_goes_on(client, releases, images):
    damage(releases, 1)
    answer = switch(client, 1)
    assert (answer.status_code, answer.json()["code"]) == (409, "E_RELEASE_DAMAGED")
    (releases / "current").write_text("1\n")
    wait_for(lambda: client.get("/v1/release").json()["warnings"])
    assert "E_RELEASE_DAMAGED" in client.get("/v1/release").json()["warnings"][0]
    assert version_of(client) == 2
    assert client.post("/v1/search", content=images[0], headers=PNG).status_code == 200
    assert 'anchorage_switches_total{result="refused"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("name", "code"), [("index/docids.pkl", "E_RELEASE_DAMAGED"), ("extra.txt", "E_RELEASE_DAMAGED")]
)
def test_f23_a_release_with_a_foreign_file_is_refused(client, releases, name, code):
    (releases / "1" / name).write_bytes(b"x")
    assert switch(client, 1).json()["code"] == code
    assert version_of(client) == 2


def test_f20_an_index_of_another_model_is_refused(client, releases):
    facts = releases / "1/index/index.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "model_fingerprint": "0" * 64}))
    assert switch(client, 1).json()["code"] in ("E_RELEASE_DAMAGED", "E_RELEASE_MIXED")


def test_f24_two_services_write_at_once(releases):
    """Each write has a number of its own, and both services end with the items of both."""
    with running(releases, follow_seconds=0.05) as one, running(releases, follow_seconds=0.05) as two:

        def write(client, name):
            for number in range(10):
                body = {"vector": [1.0, float(number)] * 24, "label": name}
                answers.append(client.put(f"/v1/items/{name}-{number}", json=body, headers=WITH_KEY))

        answers = []
        writers = [threading.Thread(target=write, args=each) for each in ((one, "one"), (two, "two"))]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert {answer.status_code for answer in answers} == {200}
        assert sorted(answer.json()["change"] for answer in answers) == list(range(1, 21))
        wait_for(lambda: [client.get("/v1/release").json()["rows"] for client in (one, two)] == [32, 32])


def test_f26_a_candidate_that_was_not_published_is_not_served(client, releases):
    shutil.copytree(releases / "1", releases / "3")
    (releases / "3" / NAME).unlink()
    answer = switch(client, 3)
    assert (answer.status_code, answer.json()["code"]) == (409, "E_RELEASE_DAMAGED")
    assert (version_of(client), current_version(releases)) == (2, 2)


def test_f26_a_release_unlike_the_served_one_is_switched_to_as_a_whole(releases, images):
    """Images of 2 x 2, not 4 x 4 pixels, and 12, not 48 dimensions: encoder, index and items change at once."""
    made = publish_tiny(releases.parent, images, size=2, calibration=CALIBRATION)
    versions = {2: 4, made: 2}  # with the size of their images
    kept, *queries = draw_images(5, seed=41)
    expected = {}
    for version, size in versions.items():
        vectors = Shrink(size=size).embed([*images, kept, *queries])["embeddings"].numpy()
        gallery = list(vectors[: -len(queries)])
        if version == 2:  # the other leaves it out
            gallery.append(np.full(48, -(48**-0.5)))
        expected[version] = [sorted(np.stack(gallery) @ query)[:-4:-1] for query in vectors[-len(queries) :]]
    answers, stop = [], threading.Event()

    def ask(client, number):
        while not stop.is_set():
            answers.append((number, client.post("/v1/search?k=3", content=queries[number], headers=PNG)))

    with running(releases, keep_images=True, watch_seconds=60) as client:
        switch(client, 2)
        assert client.put("/v1/items/kept", content=kept, headers={**PNG, **WITH_KEY}).status_code == 200
        vector = client.put("/v1/items/vector", json={"vector": [-1.0] * 48}, headers=WITH_KEY)
        assert vector.status_code == 200
        askers = [threading.Thread(target=ask, args=(client, number)) for number in range(len(queries))]
        for asker in askers:
            asker.start()
        for version in (made, 2, made):
            answer = switch(client, version)
            assert (answer.status_code, answer.json()["dimension"]) == (200, 3 * versions[version] ** 2)
        stop.set()
        for asker in askers:
            asker.join()
        assert client.get("/v1/release").json()["left_out"] == ["vector"]
        refused = client.post("/v1/search", json={"vector": [1.0] * 48})
        assert (refused.status_code, refused.json()["code"]) == (422, "E_QUERY_SHAPE")
    assert {answer.json()["release"]["version"] for _, answer in answers} == set(versions)
    for number, answer in answers:
        scores = [result["score"] for result in answer.json()["results"]]
        assert scores == pytest.approx(expected[answer.json()["release"]["version"]][number], abs=1e-4)


def test_f21_a_moved_release_is_served(releases, tmp_path, images):
    moved = (releases / "1").rename(tmp_path / "elsewhere")
    with running(moved) as client:
        assert client.post("/v1/search", content=images[0], headers=PNG).json()["release"]["version"] == 1
        answer = switch(client, 2)
        assert (answer.status_code, answer.json()["code"]) == (409, "E_RELEASE_SINGLE")


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_without_a_release_is_told_and_left_alone(tmp_path, exists):
    folder = tmp_path / "releases"
    if exists:
        folder.mkdir()
    with pytest.raises(UsageError, match="E_RELEASE_MISSING"), running(folder):
        pass
    assert list(tmp_path.iterdir()) == [folder] * exists
    assert not exists or not list(folder.iterdir())


def test_a_release_whose_pointer_cannot_be_written_is_freed(client, monkeypatch):
    loaded, load = [], serving.load_deployment
    monkeypatch.setattr(serving, "load_deployment", lambda *given: loaded.append(load(*given)) or loaded[-1])

    def refuse(*_):
        raise ResourceError("E_NOT_WRITABLE", "Expected to write. Received: a read-only folder")

    monkeypatch.setattr(serving, "roll_back", refuse)
    assert (switch(client, 1).status_code, switch(client, 1).json()["code"]) == (503, "E_NOT_WRITABLE")
    assert version_of(client) == 2
    assert [each.freed for each in loaded] == [True, True]


def test_a_switch_that_fails_after_the_pointer_moved_is_made_up_for(client, monkeypatch):
    catch_up, failures = Follower.catch_up, iter([True])

    def fail_once(follower):
        if threading.current_thread().name.startswith("store") and next(failures, False):
            raise ResourceError("E_STORE_UNAVAILABLE", "Expected a database. Received: none")
        return catch_up(follower)

    monkeypatch.setattr(Follower, "catch_up", fail_once)
    assert switch(client, 1).json()["code"] == "E_STORE_UNAVAILABLE"
    wait_for(lambda: version_of(client) == 1)


def test_a_version_that_is_not_there(client):
    assert (switch(client, 7).status_code, switch(client, 7).json()["code"]) == (404, "E_RELEASE_MISSING")
    assert switch(client, 0).json()["code"] == "E_REQUEST_FIELDS"


def test_another_release_is_compared_and_freed(client, images):
    assert switch(client, 1, "compared").status_code == 200
    first, second = (client.post(f"/v1/search?release={n}", content=images[0], headers=PNG).json() for n in (1, 2))
    assert (first["release"]["version"], second["release"]["version"]) == (1, 2)
    assert version_of(client) == 2
    other = client.service.releases.compared
    client.delete("/v1/releases/compared", headers=WITH_KEY)
    assert other.freed
    assert client.post("/v1/search?release=1", content=images[0], headers=PNG).status_code == 409


def test_no_request_fails_while_the_release_is_switched(client, images):
    statuses, versions, stop = [], set(), threading.Event()

    def ask():
        while not stop.is_set():
            answer = client.post("/v1/search?k=3", content=images[3], headers=PNG)
            statuses.append(answer.status_code)
            versions.add(answer.json()["release"]["version"])

    old = client.service.releases.current
    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for version in (1, 2, 1):
        assert switch(client, version).status_code == 200
    stop.set()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200}
    assert versions == {1, 2}
    assert old.freed


def test_items_of_another_model_are_embedded_again_or_left_out(releases):
    kept, lost = draw_images(2, seed=31)
    with running(releases, keep_images=True) as client:
        client.put("/v1/items/kept", content=kept, headers={**PNG, **WITH_KEY})
    with running(releases) as client:
        client.put("/v1/items/lost", content=lost, headers={**PNG, **WITH_KEY}, params={"label": "x"})
        switch(client, 1)
        answer = client.post("/v1/search?k=20", content=kept, headers=PNG).json()
        assert (len(answer["results"]), answer["left_out"]) == (12, ["kept"])
        release = client.get("/v1/release").json()
        assert (release["left_out"], release["rows"]) == (["lost"], 13)
        assert "another model" in release["warnings"][0]
        assert client.get("/v1/items/lost").json()["searchable"] is False
        switch(client, 2)
        assert client.post("/v1/search", content=lost, headers=PNG).json()["left_out"] == ["lost"]


def test_an_item_that_was_left_out_is_added_again_with_its_label(releases):
    (lost,) = draw_images(1, seed=31)
    known = {"label": "x", "attributes": json.dumps({"color": "red"})}
    with running(releases) as client:
        client.put("/v1/items/lost", content=lost, headers={**PNG, **WITH_KEY}, params=known)
        switch(client, 1)
        refused = client.put("/v1/items/lost", headers=WITH_KEY, params={"label": "y"})
        assert (refused.status_code, refused.json()["code"]) == (422, "E_ITEM_EMPTY")
        assert "another model" in refused.json()["detail"]
        assert client.put("/v1/items/lost", content=lost, headers={**PNG, **WITH_KEY}).status_code == 200
        shown = client.get("/v1/items/lost").json()
        assert (shown["label"], shown["attributes"], shown["searchable"]) == ("x", {"color": "red"}, True)


def test_a_relabelled_item_of_the_gallery_stays_with_another_model(releases, images):
    """Its vector is that of the other release: no image needs to be kept for it."""
    item = "class-0/0.png"
    with running(releases) as client:
        assert client.put(f"/v1/items/{item}", params={"label": "other"}, headers=WITH_KEY).status_code == 200
        switch(client, 1)
        release = client.get("/v1/release").json()
        assert (release["version"], release["left_out"], release["rows"]) == (1, [], 12)
        answer = client.post("/v1/search?k=20", content=images[1], headers=PNG).json()
        assert "other" in [result["label"] for result in answer["results"] if result["id"] == item]
        client.put(f"/v1/items/{item}", content=images[1], headers={**PNG, **WITH_KEY})
        switch(client, 2)  # has another image of this id
        assert client.get("/v1/release").json()["left_out"] == [item]


def test_the_report_is_served_apart(shared):
    answer = shared.get("/report/")
    assert "<title>Report</title>" in answer.text
    assert "sandbox" in answer.headers["content-security-policy"]
    assert shared.get("/report/../manifest.json").status_code == 404
    assert shared.get("/report/%2e%2e/manifest.json").status_code == 404
