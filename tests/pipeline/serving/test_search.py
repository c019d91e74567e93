"""Searches over HTTP: every form of a query, limits, and damaged input."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from releases import COLORS, draw_images, encode

from anchorage_pipeline.serving.http.schemas import QueriesBody, QueryBody

PNG = {"Content-Type": "image/png"}
IDS = [f"class-{number % 3}/{number}.png" for number in range(12)]


def many(text, count):
    """Return JSON text `count` times; `%d` in it becomes the number of each."""
    return b",".join(text.replace(b"%d", b"%d" % number) for number in range(count))


def in_base64(image):
    return base64.b64encode(image).decode()


def search(client, content=None, *, json=None, headers=PNG, **parameters):
    if json is not None:
        return client.post("/v1/search", json=json, params=parameters)
    return client.post("/v1/search", content=content, headers=headers, params=parameters)


def ids(answer):
    return [result["id"] for result in answer["results"]]


def expected_order(vectors, query):
    """Ids by cosine to a query, as an independent computation."""
    return [IDS[row] for row in np.argsort(-(vectors @ query))]


@pytest.fixture(scope="module")
def vectors(images):
    """What the model of the release makes of its images: their pixels, centred, of unit length."""
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])
    flat = pixels.reshape(len(pixels), -1).astype(np.float64) - 127.5
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_an_image_finds_the_nearest_items_without_itself(shared, images, vectors):
    answer = search(shared, images[4], k=5).json()
    assert ids(answer) == expected_order(vectors, vectors[4])[1:6]
    assert answer["left_out"] == [IDS[4]]
    assert answer["limited"] is False
    assert answer["release"]["version"] == 2
    for result in answer["results"]:
        number = IDS.index(result["id"])
        assert result["score"] == pytest.approx(vectors[number] @ vectors[4], abs=1e-5)
        assert result["label"] == f"class-{number % 3}"
        assert result["attributes"] == {"color": COLORS[number % 2]}


def test_all_forms_of_one_query_have_one_answer(shared, images, vectors):
    stranger = draw_images(1, seed=9)[0]
    raw = search(shared, stranger, k=3).json()
    form = shared.post("/v1/search?k=3", files={"image": ("a.png", stranger, "image/png")}).json()
    text = search(shared, json={"image": in_base64(stranger), "k": 3}).json()
    assert raw == form == text
    by_id = search(shared, json={"id": IDS[4], "k": 3}).json()
    by_vector = search(shared, json={"vector": (3 * vectors[4]).tolist(), "k": 4}).json()  # its length does not matter
    assert by_id["left_out"] == [IDS[4]]
    assert ids(by_vector) == [IDS[4], *ids(by_id)]


def test_probability_and_unknown_are_those_of_the_release(shared, images):
    answer = search(shared, images[0], k=5).json()
    scores = [result["score"] for result in answer["results"]]
    likely = 1 / (1 + np.exp(1 - 2 * np.array(scores[:3])))  # intercept -1 and slope 2, of the three that vote
    assert [result["probability"] for result in answer["results"][:3]] == pytest.approx(likely, abs=1e-6)
    assert [result["probability"] for result in answer["results"][3:]] == [None, None]
    assert answer["unknown"] is (scores[0] < 0.5)
    assert [result["likely"] for result in answer["results"]] == [None] * 5  # probabilities say more
    assert shared.get("/v1/release").json()["unknown_rates"] == {"missing": 0.875, "present": 0.25}


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ({"label": "class-1"}, lambda n: n % 3 == 1),
        ({"label": ["class-1", "class-2"]}, lambda n: n % 3),
        ({"attributes": {"color": "red"}}, lambda n: n % 2 == 0),
        ({"attributes": {"color": ["red"]}, "label": "class-0"}, lambda n: n % 6 == 0),
        ({"id": [IDS[1], IDS[2], "no such id"]}, lambda n: n in (1, 2)),
    ],
)
def test_a_filter_keeps_the_matching_items_in_order(shared, images, vectors, condition, kept):
    stranger = draw_images(1, seed=9)[0]
    everything = ids(search(shared, stranger, k=12).json())
    expected = [name for name in everything if kept(IDS.index(name))]
    by_parameter = search(shared, stranger, k=12, filter=json.dumps(condition)).json()
    by_body = search(shared, json={"image": in_base64(stranger), "k": 12, "filter": condition}).json()
    assert ids(by_parameter) == ids(by_body) == expected
    assert by_parameter["limited"] is True


def test_a_filter_does_not_change_what_an_item_probably_is(shared, images):
    stranger = draw_images(1, seed=9)[0]
    whole = {r["id"]: r["probability"] for r in search(shared, stranger, k=12).json()["results"]}
    narrow = search(shared, stranger, k=12, filter='{"attributes": {"color": "red"}}').json()["results"]
    assert [result["probability"] for result in narrow] == [whole[result["id"]] for result in narrow]


def test_results_below_the_minimum_score_are_omitted(shared, images):
    answers = search(shared, images[3], k=12).json()["results"]
    least = answers[4]["score"]
    kept = search(shared, images[3], k=12, min_score=least).json()
    assert kept["results"] == answers[:5]
    assert search(shared, images[3], k=5, min_score=0.999).json()["results"] == []


def test_several_queries_are_answered_as_single_ones(shared, images):
    queries = [{"image": in_base64(image)} for image in images] + [{"id": IDS[2], "k": 1}]
    answers = search(shared, json={"queries": queries, "k": 2}).json()["answers"]
    for image, answer in zip(images, answers, strict=False):
        single = search(shared, image, k=2).json()
        assert answer == {name: single[name] for name in ("results", "unknown", "left_out", "limited")}
    assert len(answers[-1]["results"]) == 1


def test_f27_more_results_than_items_and_no_query(shared, images):
    answer = search(shared, images[0], k=500).json()
    assert len(answer["results"]) == 11
    assert answer["limited"] is True
    assert search(shared, json={"queries": []}).json()["answers"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"id": "nobody"}, 404, "E_ITEM_UNKNOWN"),
        ({"vector": [1.0] * 47}, 422, "E_QUERY_SHAPE"),
        ({"vector": [0.0] * 48}, 422, "E_VECTOR_UNUSABLE"),
        ({"vector": [1e308] * 48}, 422, "E_VECTOR_UNUSABLE"),
        ({"vector": "none"}, 422, "E_REQUEST_FIELDS"),
        ({"text": "an umbrella"}, 422, "E_NO_TEXT"),
        ({"image": "*"}, 400, "E_REQUEST_SYNTAX"),
        ({"id": IDS[0], "text": "both"}, 422, "E_REQUEST_FIELDS"),
        ({}, 422, "E_REQUEST_FIELDS"),
        ({"id": IDS[0], "k": 0}, 422, "E_REQUEST_FIELDS"),
        ({"id": IDS[0], "k": 1001}, 422, "E_NEIGHBORS"),
        ({"id": IDS[0], "neighbours": 3}, 422, "E_REQUEST_FIELDS"),
        ({"id": IDS[0], "filter": {"colour": "red"}}, 422, "E_REQUEST_FIELDS"),
        ({"queries": [{"id": IDS[0]}] * 65}, 422, "E_BATCH_TOO_LARGE"),
    ],
)
def test_f19_f27_what_cannot_be_answered(shared, body, status, code):
    answer = search(shared, json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (status, code, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["instance"] == "/v1/search"


@pytest.mark.parametrize("text", ['{"id": ', "[1]", '"id"', '{"vector": [NaN]}', "", '{"queries": {"a": 1}}', "\xff"])
def test_rejects_malformed_json(shared, text):
    answer = search(shared, text.encode("latin-1"), headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("E_REQUEST_SYNTAX", "E_REQUEST_FIELDS")


def noisy_jpeg():
    return encode(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8), "JPEG", quality=95)


def huge_png():
    buffer = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(buffer, "PNG")
    return buffer.getvalue()


DAMAGED = {
    "f01": (noisy_jpeg()[:-900], 422, "E_IMAGE_TRUNCATED"),
    "f03-empty": (b"", 422, "E_IMAGE_EMPTY"),
    "f03-html": (b"<html>not a picture</html>", 422, "E_IMAGE_FORMAT"),
    "f07": (huge_png(), 413, "E_IMAGE_TOO_LARGE"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_is_a_problem_of_its_own_query_only(shared, images, name):
    image, status, code = DAMAGED[name]
    alone = search(shared, image, k=1)
    assert (alone.status_code, alone.json()["code"]) == (status, code)
    queries = [{"image": in_base64(each)} for each in (images[0], image, images[1])]
    first, bad, last = search(shared, json={"queries": queries, "k": 1}).json()["answers"]
    assert bad["problem"]["code"] == code
    assert first["left_out"] == [IDS[0]]
    assert last["left_out"] == [IDS[1]]


def flip_bits(image):
    """A JPEG with other picture data that still decodes: nothing tells it from another picture."""
    changed = bytearray(image)
    changed[len(image) // 2] ^= 0x10
    return bytes(changed)


def turned(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(pixels, "JPEG", quality=100, subsampling=0, exif=exif)


def test_f02_to_f06_unusual_images_are_embedded_by_the_rules_of_training(shared):
    pixels = np.kron(np.random.default_rng(4).integers(0, 256, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    picture = Image.fromarray(pixels)
    answers = {"png": search(shared, encode(pixels), k=3).json()}
    frames = io.BytesIO()
    picture.save(frames, "GIF", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    answers["first frame"] = search(shared, frames.getvalue(), headers={"Content-Type": "image/gif"}, k=3).json()
    webp = io.BytesIO()
    picture.save(webp, "WEBP", lossless=True)
    answers["webp"] = search(shared, webp.getvalue(), headers={"Content-Type": "image/webp"}, k=3).json()
    rows = np.rot90(pixels)  # turned by a quarter: the tag turns it back
    answers["turned"] = search(shared, turned(rows), headers={"Content-Type": "image/jpeg"}, k=3).json()
    for name, answer in answers.items():
        assert ids(answer) == ids(answers["png"]), name
    cmyk = io.BytesIO()
    picture.convert("CMYK").save(cmyk, "JPEG")
    for data in (cmyk.getvalue(), flip_bits(noisy_jpeg())):
        assert search(shared, data, headers={"Content-Type": "image/jpeg"}, k=3).status_code in (200, 422)


@pytest.mark.parametrize(
    "body",
    [
        b'{"queries": [' + b"{}," * 300_000 + b"{}]}",
        b'{"queries": [' + b"[]," * 300_000 + b"[]]}",
        b"{" + b",".join(b'"%d": 0' % number for number in range(300_000)) + b"}",
    ],
    ids=["objects", "lists", "fields"],
)
def test_json_of_too_many_parts_is_not_decoded(shared, monkeypatch, body):
    monkeypatch.setattr(QueriesBody, "model_validate_json", None)
    monkeypatch.setattr(QueryBody, "model_validate_json", None)
    answer = shared.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "E_REQUEST_FIELDS")
    assert "100000 objects" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"queries": [%s]}' % many(b"0", 300_000),
        b'{"id": "a", "filter": {"label": [%s]}}' % many(b"0", 300_000),
        b'{"id": "a", "filter": {"attributes": {%s}}}' % many(b'"%d": [' + many(b"0", 10_000) + b"]", 30),
        b'{"queries": [%s]}' % many(b'{"vector": [' + many(b"true", 10_000) + b"]}", 30),
    ],
    ids=["queries", "values", "attributes", "vectors"],
)
def test_hundreds_of_thousands_of_faults_are_not_listed(shared, body):
    answer = shared.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "E_REQUEST_FIELDS")
    with pytest.raises(ValidationError) as error:
        (QueriesBody if b"queries" in body else QueryBody).model_validate_json(body)
    assert error.value.error_count() < 100


def test_a_body_of_another_kind_or_size(shared):
    assert search(shared, b"x", headers={"Content-Type": "text/plain"}).json()["code"] == "E_BODY_KIND"
    form = shared.post("/v1/search", files={"picture": ("a.png", b"x", "image/png")})
    assert (form.status_code, form.json()["code"]) == (400, "E_REQUEST_SYNTAX")
    large = search(shared, b"\0" * (32 * 2**20 + 1))
    assert (large.status_code, large.json()["code"]) == (413, "E_BODY_TOO_LARGE")
    chunks = (b"\0" * 2**20 for _ in range(40))  # without a length
    assert search(shared, chunks).status_code == 413


def test_f20_a_search_names_a_loaded_release_only(shared, images):
    assert search(shared, images[0], release=2).status_code == 200
    answer = search(shared, images[0], release=1)
    assert (answer.status_code, answer.json()["code"]) == (409, "E_RELEASE_NOT_LOADED")
