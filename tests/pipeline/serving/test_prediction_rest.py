"""TensorFlow Serving's REST API: rows and columns, base64, numbers, and its form of errors."""

import base64

import numpy as np
import pytest
import tensorflow as tf
from exported import SIDE, picture, publish_exported
from services import running

from anchorage.data.images import load_image

PREDICT = "/v1/models/anchorage:predict"
IMAGES = [picture(1), picture(2, "JPEG")]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    publish_exported(folder)
    with running(folder / "releases") as client:
        client.expected = tf.saved_model.load(str(folder / "releases/1")).signatures
        yield client


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def test_instances_are_answered_row_by_row(client):
    expected = client.expected["serving_default"](images=tf.constant([*IMAGES, b"bad"]))
    for instances in ([*map(b64, IMAGES), "bad"], [*({"images": b64(image)} for image in IMAGES), {"images": "bad"}]):
        answer = client.post(PREDICT, json={"instances": instances})
        assert answer.status_code == 200
        rows = answer.json()["predictions"]
        assert [row["valid"] for row in rows] == [True, True, False]
        np.testing.assert_allclose([row["embeddings"] for row in rows], expected["embeddings"], atol=1e-5)


def test_inputs_are_answered_in_columns(client):
    expected = client.expected["serving_default"](images=tf.constant(IMAGES))["embeddings"]
    for inputs in ([*map(b64, IMAGES)], {"images": [*map(b64, IMAGES)]}):
        answer = client.post("/v1/models/anchorage/versions/1:predict", json={"inputs": inputs})
        outputs = answer.json()["outputs"]
        assert outputs["valid"] == [True, True]
        np.testing.assert_allclose(outputs["embeddings"], expected, atol=1e-5)


def test_a_single_output_has_no_name(client):
    pixels = np.stack([load_image(image, SIDE, "crop") for image in IMAGES])
    expected = client.expected["pixels"](images=tf.constant(pixels))["embeddings"]
    for key, result in (("instances", "predictions"), ("inputs", "outputs")):
        answer = client.post(PREDICT, json={"signature_name": "pixels", key: pixels.tolist()})
        np.testing.assert_allclose(answer.json()[result], expected, atol=1e-5)


def test_empty_rows(client):
    assert client.post(PREDICT, json={"instances": []}).json() == {"predictions": []}
    answer = client.post(PREDICT, json={"signature_name": "pixels", "inputs": []})
    assert answer.json() == {"outputs": []}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (PREDICT, b"{", 400, "JSON Parse error"),
        (PREDICT, b"[" * 100_000, 400, "JSON Parse error"),
        (PREDICT, b"[]", 400, "Expected a JSON object"),
        (PREDICT, b"{}", 400, "exactly one of 'instances' and 'inputs'"),
        (PREDICT, b'{"instances": [], "inputs": []}', 400, "exactly one of"),
        (PREDICT, b'{"instances": 3}', 400, "Expected a list"),
        (PREDICT, b'{"instances": [3]}', 400, "Expected string as images"),
        (PREDICT, b'{"instances": [{"b64": "%"}]}', 400, "base64 that cannot be decoded"),
        (PREDICT, b'{"instances": [{"image": "x"}]}', 400, "Expected the input images. Received: image"),
        (PREDICT, b'{"inputs": {"images": [], "more": []}}', 400, "Expected the input images"),
        (PREDICT, b'{"signature_name": "x", "inputs": []}', 400, 'signature key \\"x\\" not found'),
        (PREDICT, b'{"signature_name": "pixels", "inputs": [[1, 2], [3]]}', 400, "Expected uint8 as images"),
        (PREDICT, b'{"signature_name": "pixels", "inputs": [[[[300, 0, 0]]]]}', 400, "out of range"),
        (PREDICT, b'{"signature_name": "pixels", "inputs": [[[[0.5, 0, 0]]]]}', 400, "not numbers of this type"),
        (PREDICT, b'{"signature_name": "pixels", "inputs": [[[[1, 0, 0]]]]}', 400, "Expected the shape"),
        (PREDICT, b'{"signature_name": "pixels", "instances": [[], []]}', 400, "Expected uint8 as images"),
        (PREDICT, b'{"signature_name": "pixels", "inputs": {"images": [[]]}}', 400, "Expected uint8 as images"),
        (PREDICT, b'{"signature_name": "pixels", "inputs": [' + b"0," * 256 + b"0]}", 400, "at most 256 rows"),
        ("/v1/models/other:predict", b'{"inputs": []}', 404, "Servable not found for request: Latest(other)"),
        ("/v1/models/anchorage/versions/8:predict", b'{"inputs": []}', 404, "Specific(anchorage, 8)"),
    ],
)
def test_errors_have_the_form_of_tensorflow_serving(client, path, body, status, message):
    answer = client.post(path, content=body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message.replace('\\"', '"') in answer.json()["error"]


def test_status_and_metadata(client):
    state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/anchorage", "/v1/models/anchorage/versions/1"):
        assert client.get(path).json() == {"model_version_status": [state]}
    assert client.get("/v1/models/anchorage/versions/2").status_code == 404
    content = client.get("/v1/models/anchorage/metadata").json()
    assert content["model_spec"] == {"name": "anchorage", "signature_name": "", "version": "1"}
    signatures = content["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "examples", "pixels"} <= set(signatures)
    assert signatures["serving_default"]["inputs"]["images"]["dtype"] == "DT_STRING"
