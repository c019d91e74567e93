"""Writes over HTTP: durable, all or nothing, searchable at once, and only with the key."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from releases import draw_images, encode
from services import KEY, WITH_KEY, running

from anchorage.release.items import ItemStore

PNG = {"Content-Type": "image/png", **WITH_KEY}
ITEM = "class-0/0.png"


@pytest.fixture(scope="module")
def stranger():
    return draw_images(1, seed=21)[0]


@pytest.fixture(scope="module")
def similar(stranger):
    """The stranger, a little darker: no copy of it."""
    return encode(np.asarray(Image.open(io.BytesIO(stranger))) // 16 * 15)


def nearest(client, image, k=1):
    answer = client.post("/v1/search", content=image, headers={"Content-Type": "image/png"}, params={"k": k})
    return [result["id"] for result in answer.json()["results"]]


def store_of(releases):
    return ItemStore(f"sqlite:///{releases}/items.sqlite")


def test_an_added_item_is_durable_and_found_at_once(client, releases, stranger, similar):
    colour = json.dumps({"color": "green"})
    written = client.put("/v1/items/new/1", content=stranger, headers=PNG, params={"label": "x", "attributes": colour})
    assert written.status_code == 200
    assert nearest(client, similar) == ["new/1"]
    shown = client.get("/v1/items/new/1").json()
    assert (shown["label"], shown["attributes"], shown["searchable"]) == ("x", {"color": "green"}, True)
    [stored] = store_of(releases).changes(0)
    assert (stored.id, stored.label, stored.change) == ("new/1", "x", written.json()["change"])
    assert stored.image is None
    with running(releases) as other:  # a second gateway, or the same one started again
        assert nearest(other, similar) == ["new/1"]


def test_an_image_leaves_its_own_copies_out(client, releases, images, stranger):
    """Those that were added, also by another gateway; and not an item that has another image by now."""

    def left_out(client, image):
        answer = client.post(
            "/v1/search", content=image, headers={"Content-Type": "image/png"}, params={"k": 13}
        ).json()
        assert not set(answer["left_out"]) & {result["id"] for result in answer["results"]}
        return answer["left_out"]

    client.put("/v1/items/new", content=stranger, headers=PNG)
    client.put(f"/v1/items/{ITEM}", content=stranger, headers=PNG)
    assert sorted(left_out(client, stranger)) == [ITEM, "new"]
    assert left_out(client, images[0]) == []
    client.put("/v1/items/class-1/1.png", headers=WITH_KEY, params={"label": "other"})  # keeps its image
    client.put("/v1/items/new", headers=WITH_KEY, params={"label": "other"})
    with running(releases) as other:
        assert left_out(other, images[1]) == ["class-1/1.png"]
        assert sorted(left_out(other, stranger)) == [ITEM, "new"]
    client.delete(f"/v1/items/{ITEM}", headers=WITH_KEY)
    assert left_out(client, stranger) == ["new"]


def test_an_item_is_relabelled_without_its_image(client, images):
    before = nearest(client, images[1], k=3)
    assert client.put(f"/v1/items/{ITEM}", headers=WITH_KEY, params={"label": "other"}).status_code == 200
    shown = client.get(f"/v1/items/{ITEM}").json()
    assert (shown["label"], shown["attributes"]) == ("other", {"color": "red"})
    assert nearest(client, images[1], k=3) == before


def test_a_deleted_item_is_gone_until_it_is_put_again(client, images):
    assert client.delete(f"/v1/items/{ITEM}", headers=WITH_KEY).json()["deleted"] == 1
    assert client.get(f"/v1/items/{ITEM}").status_code == 404
    assert ITEM not in nearest(client, images[1], k=12)
    again = client.delete(f"/v1/items/{ITEM}", headers=WITH_KEY)
    assert (again.status_code, again.json()["code"]) == (404, "E_ITEM_UNKNOWN")
    client.put(f"/v1/items/{ITEM}", content=images[0], headers=PNG)
    assert ITEM in nearest(client, images[1], k=12)


def test_what_is_not_given_stays_as_another_gateway_has_written_it_meanwhile(client, releases, monkeypatch):
    vectors = np.eye(48)
    client.put("/v1/items/shared", json={"vector": vectors[0].tolist(), "label": "old"}, headers=WITH_KEY)
    with running(releases) as other:
        store, meanwhile = client.service.releases.store, [{"json": {"vector": vectors[1].tolist()}}]
        write = store.write

        def write_late(*arguments):
            if meanwhile:
                assert other.put("/v1/items/shared", headers=WITH_KEY, **meanwhile.pop()).status_code == 200
            return write(*arguments)

        monkeypatch.setattr(store, "write", write_late)
        assert client.put("/v1/items/shared", params={"label": "new"}, headers=WITH_KEY).status_code == 200
        [result] = client.post("/v1/search", json={"vector": vectors[1].tolist(), "k": 1}).json()["results"]
        assert (result["id"], result["label"], round(result["score"], 4)) == ("shared", "new", 1)
        meanwhile.append({"params": {"label": "third"}})
        assert client.delete("/v1/items/shared", headers=WITH_KEY).status_code == 200
        assert client.get("/v1/items/shared").status_code == 404


def test_a_batch_is_written_whole(client, stranger, similar):
    put = [{"id": "a", "image": base64.b64encode(stranger).decode()}, {"id": "b", "vector": [1.0] * 48, "label": "b"}]
    answer = client.post("/v1/items:batch", json={"put": put, "delete": [ITEM]}, headers=WITH_KEY).json()
    assert (answer["put"], answer["deleted"], answer["change"]) == (2, 1, 3)
    assert nearest(client, similar) == ["a"]
    assert client.get("/v1/items").json()["rows"] == 13


def test_a_batch_with_faults_names_all_and_applies_nothing(client, releases, stranger):
    put = [
        {"id": "good", "image": base64.b64encode(stranger).decode()},
        {"id": "twice", "vector": [1.0] * 48},
        {"id": "twice", "vector": [1.0] * 48},
        {"id": "short", "vector": [1.0] * 3},
        {"id": "zero", "vector": [0.0] * 48},
        {"id": "html", "image": base64.b64encode(b"<html>").decode()},
        {"id": "nothing"},
    ]
    answer = client.post("/v1/items:batch", json={"put": put, "delete": ["nobody"]}, headers=WITH_KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "E_ITEMS_REFUSED")
    faults = {(fault["at"], fault["id"], fault["code"]) for fault in answer.json()["faults"]}
    assert faults == {
        ("items.1", "twice", "E_ID_DUPLICATE"),
        ("items.2", "twice", "E_ID_DUPLICATE"),
        ("items.3", "short", "E_QUERY_SHAPE"),
        ("items.4", "zero", "E_VECTOR_UNUSABLE"),
        ("items.5", "html", "E_IMAGE_FORMAT"),
        ("items.6", "nothing", "E_ITEM_EMPTY"),
        ("items.7", "nobody", "E_ITEM_UNKNOWN"),
    }
    assert store_of(releases).last_change() == 0
    assert client.get("/v1/items/good").status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "E_ITEMS_EMPTY"),
        ({"put": [{"id": "a"}] * 1001}, "E_BATCH_TOO_LARGE"),
        ({"put": [{"id": ""}]}, "E_REQUEST_FIELDS"),
        ({"put": [{"id": "a", "image": "", "vector": [1.0]}]}, "E_ITEMS_REFUSED"),
        ({"delete": ["\ud800"]}, "E_REQUEST_SYNTAX"),
    ],
)
def test_rejects_a_malformed_batch(client, body, code):
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **WITH_KEY}
    answer = client.post("/v1/items:batch", content=content, headers=headers)
    assert answer.json()["code"] == code
    assert 400 <= answer.status_code < 500


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {KEY}"}])
def test_writes_need_the_key(shared, headers):
    calls = [("PUT", "/v1/items/x"), ("DELETE", "/v1/items/x"), ("POST", "/v1/items:batch")]
    calls += [("POST", "/v1/releases/current"), ("POST", "/v1/releases/compared"), ("DELETE", "/v1/releases/compared")]
    for method, path in calls:
        answer = shared.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "E_KEY_WRONG")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_without_a_key_nothing_is_written(published, tmp_path):
    with running(published, api_key="", store=f"sqlite:///{tmp_path}/items.sqlite") as client:
        for headers in ({}, {"Authorization": "Bearer "}, WITH_KEY):
            answer = client.delete(f"/v1/items/{ITEM}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "E_WRITES_DISABLED")


def test_pictures_are_those_of_the_release_and_those_that_are_kept(releases, images, stranger):
    def picture(client, name):
        answer = client.get(f"/v1/images/{name}")
        return answer.status_code, answer.headers["content-type"]

    with running(releases, keep_images=True) as client:
        assert picture(client, ITEM) == (200, "image/jpeg")
        client.put("/v1/items/kept", content=stranger, headers=PNG)
        assert picture(client, "kept") == (200, "image/jpeg")
        assert Image.open(io.BytesIO(client.get("/v1/images/kept").content)).size == (4, 4)
        client.put("/v1/items/vector", json={"vector": [1.0] * 48}, headers=WITH_KEY)
        assert picture(client, "vector") == (404, "application/problem+json")


def test_an_item_with_another_image_does_not_show_the_old_one(client, stranger):
    picture = f"/v1/images/{ITEM}"
    client.put(f"/v1/items/{ITEM}", headers=WITH_KEY, params={"label": "other"})
    assert client.get(picture).status_code == 200  # the image is as it was
    client.put(f"/v1/items/{ITEM}", content=stranger, headers=PNG)  # and is not kept
    assert client.get(picture).json()["code"] == "E_ITEM_NO_IMAGE"


def test_too_long_attributes_are_a_fault_of_the_request(client):
    answer = client.put(f"/v1/items/{ITEM}", headers=WITH_KEY, params={"attributes": json.dumps({"color": "x" * 1025})})
    assert (answer.status_code, answer.json()["code"]) == (422, "E_REQUEST_FIELDS")
    assert answer.json()["faults"][0]["at"] == "color"


def test_fields_of_a_form_that_would_be_lost_are_refused(client, stranger):
    form = {"files": {"image": ("a.png", stranger)}, "data": {"label": "x"}}
    answer = client.put("/v1/items/form", headers=WITH_KEY, **form)
    assert (answer.status_code, answer.json()["code"]) == (422, "E_REQUEST_FIELDS")
    assert "['label']" in answer.json()["detail"]
    answer = client.put("/v1/items/form", headers=WITH_KEY, files=form["files"], params=form["data"])
    assert answer.status_code == 200


def test_a_key_of_any_letters_is_accepted(published, tmp_path):
    with running(published, api_key="Schlüssel", store=f"sqlite:///{tmp_path}/items.sqlite") as client:
        headers = [(b"Authorization", "Bearer Schlüssel".encode())]  # as curl sends it
        assert client.delete(f"/v1/items/{ITEM}", headers=headers).status_code == 200


def test_an_id_may_end_like_a_path_of_the_service(client, stranger):
    for name in ("a/image", "a", "image"):
        assert client.put(f"/v1/items/{name}", content=stranger, headers=PNG | WITH_KEY).status_code == 200
        assert client.get(f"/v1/items/{name}").json()["id"] == name


@pytest.mark.parametrize("name", ["..%2Freleases/current", "..%2F..%2Fetc%2Fpasswd", "/etc/passwd"])
def test_no_id_is_a_path(shared, name):
    assert shared.get(f"/v1/images/{name}").status_code == 404
    assert shared.get(f"/report/{name}").status_code == 404
    assert shared.get(f"/page/{name}").status_code == 404


def test_a_put_id_that_is_a_path_names_no_file(client, releases, stranger):
    client.put("/v1/items/..%2Freleases%2Fcurrent", content=stranger, headers=PNG)
    answer = client.get("/v1/images/..%2Freleases%2Fcurrent")
    assert answer.json()["code"] == "E_ITEM_NO_IMAGE"


def test_items_and_attributes_are_listed(shared):
    listed = shared.get("/v1/items", params={"label": "class-2", "limit": 2}).json()
    assert [item["id"] for item in listed["items"]] == ["class-2/2.png", "class-2/5.png"]
    assert listed["rows"] == 12
    values = shared.get("/v1/attributes").json()["attributes"]["color"]
    assert sorted((each["value"], each["count"]) for each in values) == [("blue", 6), ("red", 6)]


def test_items_are_drawn_with_a_seed(shared):
    drawn = [
        [item["id"] for item in shared.get("/v1/items", params={"seed": seed, "limit": 6}).json()["items"]]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 6
    refused = shared.get("/v1/items", params={"seed": 1, "label": "class-1"})
    assert (refused.status_code, refused.json()["code"]) == (422, "E_REQUEST_FIELDS")
