"""TensorFlow Serving's gRPC API, through the stubs of its clients, compared with the SavedModel called directly."""

import io
import shutil
import threading
import time
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tensorflow as tf
from exported import DIM, SIDE, picture, publish_exported
from PIL import Image
from services import running
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from anchorage.data.images import load_image
from anchorage.errors import AnchorageError, ResourceError
from anchorage.release.manifest import NAME
from anchorage_pipeline.serving.prediction_grpc import serve_grpc
from anchorage_pipeline.serving.settings import Limits

IMAGES = [picture(1), picture(2, "JPEG"), picture(3, "GIF")]


class Client:
    """Stubs on a channel to a service; `service` is the service, and `portal` runs functions on its loop."""

    def __init__(self, http, channel):
        self.service, self.portal = http.service, http.portal
        self.channel = channel
        self.prediction, self.models = PredictionServiceStub(channel), ModelServiceStub(channel)

    def predict(self, value, name="images", signature="", version=None, filter=(), timeout=30, model="anchorage"):
        request = predict_pb2.PredictRequest(output_filter=filter)
        request.model_spec.name, request.model_spec.signature_name = model, signature
        if version is not None:
            request.model_spec.version.value = version
        request.inputs[name].CopyFrom(value if hasattr(value, "tensor_shape") else tf.make_tensor_proto(value))
        return self.prediction.Predict(request, timeout=timeout)

    def outputs(self, *arguments, **options):
        return {name: tf.make_ndarray(value) for name, value in self.predict(*arguments, **options).outputs.items()}


@contextmanager
def calling(releases, **settings):
    with running(releases, **settings) as http:
        served = http.portal.wrap_async_context_manager(serve_grpc(http.service, "127.0.0.1", 0))
        with served as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Client(http, channel)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of two releases with different encoders; the second is current."""
    folder = tmp_path_factory.mktemp("exported")
    for seed in (0, 1):
        publish_exported(folder, seed)
    return folder / "releases"


@pytest.fixture(scope="module")
def client(exported, tmp_path_factory):
    with calling(exported, store=f"sqlite:///{tmp_path_factory.mktemp('store')}/items") as client:
        yield client


@pytest.fixture(scope="module")
def direct(exported):
    """Outputs of the SavedModel of the current release."""
    model = tf.saved_model.load(str(exported / "2"))
    return lambda signature, **inputs: {
        name: value.numpy()
        for name, value in model.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()}).items()
    }


def example(image):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    return tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature})).SerializeToString()


def refused(code, message, call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **options)
    assert error.value.code() == code
    assert message in error.value.details()


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_every_signature_answers_as_the_saved_model(client, direct):
    assert_equal(client.outputs(IMAGES), direct("serving_default", images=IMAGES))
    named = client.outputs(IMAGES, signature="serving_default", version=2)
    assert_equal(named, direct("serving_default", images=IMAGES))
    examples = [*map(example, IMAGES), b"\xff", b""]
    assert_equal(client.outputs(examples, name="examples", signature="examples"), direct("examples", examples=examples))
    pixels = np.stack([load_image(image, SIDE, "crop") for image in IMAGES])
    assert_equal(client.outputs(pixels, signature="pixels"), direct("pixels", images=pixels))


def test_response_names_what_answered_and_has_the_wanted_outputs(client):
    response = client.predict(IMAGES, filter=["valid"])
    assert list(response.outputs) == ["valid"]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("anchorage", 2, "serving_default")


def bomb():
    buffer = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(buffer, "PNG")
    return buffer.getvalue()


def animation():
    buffer = io.BytesIO()
    frames = [Image.new("L", (30, 20), 60 * number) for number in range(4)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def sixteen_bits():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(0, 60_000, 100, dtype=np.uint16).reshape(20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(5, "JPEG", exif=exif)


def test_rows_1_to_7_bad_images_cost_their_own_rows(client, direct):
    jpeg = picture(4, "JPEG", size=(200, 150))
    kinds = [
        turned(),
        animation(),
        picture(6, "JPEG", mode="CMYK"),
        picture(7, mode="L"),
        picture(8, mode="P"),
        sixteen_bits(),
        picture(9, mode="RGBA"),
        picture(10, "WebP"),
    ]
    bad = [jpeg[: len(jpeg) // 2], b"", b"<html>not found</html>", bomb(), picture(11)[:60]]
    batch = [*kinds[:3], *bad, *kinds[3:]]
    found = client.outputs(batch)
    assert found["valid"].tolist() == [True] * 3 + [False] * len(bad) + [True] * 5
    assert not found["embeddings"][3 : 3 + len(bad)].any()
    assert_equal(found, direct("serving_default", images=batch))


def test_row_2_flipped_bits_in_the_picture_change_its_own_row_only(client, direct):
    """No decoder can tell: the row is that of the pixels that come out, and the others are as they were."""
    flipped = bytearray(picture(4, "JPEG", size=(200, 150)))
    for place in range(len(flipped) // 2, len(flipped) // 2 + 40, 8):
        flipped[place] ^= 0x10
    batch = [IMAGES[0], bytes(flipped), IMAGES[1]]
    found = client.outputs(batch)
    assert_equal(found, direct("serving_default", images=batch))
    assert found["valid"].tolist() == [True] * 3
    np.testing.assert_allclose(found["embeddings"][::2], client.outputs(IMAGES[:2])["embeddings"], atol=1e-5)


def test_row_24_two_services_of_one_folder_answer_alike_and_follow_its_pointer(client, exported, tmp_path):
    releases = shutil.copytree(exported, tmp_path / "releases")
    with calling(releases, watch_seconds=0.05) as one, calling(releases, watch_seconds=0.05) as two:
        assert_equal(one.outputs(IMAGES), two.outputs(IMAGES))
        one.portal.call(one.service.releases.switch, 1)
        end = time.monotonic() + 120
        while two.predict(IMAGES).model_spec.version.value != 1:  # answers all the time
            assert time.monotonic() < end
            time.sleep(0.05)
        assert_equal(one.outputs(IMAGES), two.outputs(IMAGES))


def test_row_26_a_candidate_that_was_not_published_is_not_served(client, exported, tmp_path):
    """A release is a number with a manifest: what a run left unpublished beside it changes nothing."""
    releases = shutil.copytree(exported, tmp_path / "releases")
    with calling(releases, watch_seconds=0.05) as service:
        before = service.outputs(IMAGES)
        shutil.copytree(releases / "1", releases / ".tmp-3-candidate")
        shutil.copytree(releases / "1", releases / "3")
        (releases / "3" / NAME).unlink()
        refused(grpc.StatusCode.NOT_FOUND, "Specific(anchorage, 3)", service.predict, IMAGES, version=3)
        with pytest.raises(AnchorageError):
            service.portal.call(service.service.releases.switch, 3)
        assert_equal(service.outputs(IMAGES), before)
        assert service.predict(IMAGES).model_spec.version.value == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"value": np.zeros((2, 3), np.float32)}, "INVALID_ARGUMENT", "Expected string as images. Received: float32"),
        ({"value": [IMAGES]}, "INVALID_ARGUMENT", "Expected the shape (N) for images. Received: (1, 3)"),
        ({"value": b"scalar"}, "INVALID_ARGUMENT", "Expected the shape (N) for images. Received: ()"),
        ({"value": IMAGES, "name": "pictures"}, "INVALID_ARGUMENT", "expected {images}. Received: {pictures}"),
        ({"value": IMAGES, "filter": ["scores"]}, "INVALID_ARGUMENT", "not found in signature: scores"),
        ({"value": IMAGES, "filter": ["valid", "valid"]}, "INVALID_ARGUMENT", "duplicate output tensor alias: valid"),
        ({"value": IMAGES, "signature": "classify"}, "FAILED_PRECONDITION", 'signature key "classify" not found'),
        ({"value": IMAGES, "model": "resnet"}, "NOT_FOUND", "Servable not found for request: Latest(resnet)"),
        ({"value": IMAGES, "version": 7}, "NOT_FOUND", "Servable not found for request: Specific(anchorage, 7)"),
        (
            {"value": np.zeros((1, SIDE, SIDE + 1, 3), np.uint8), "signature": "pixels"},
            "INVALID_ARGUMENT",
            f"Expected the shape (N, {SIDE}, {SIDE}, 3) for images",
        ),
        ({"value": [b""] * 257}, "INVALID_ARGUMENT", "at most 256 rows in one request. Received: 257"),
    ],
)
def test_row_19_wrong_requests(client, options, code, message):
    refused(grpc.StatusCode[code], message, client.predict, **options)


def test_a_small_message_that_claims_a_huge_tensor_is_refused_by_its_shape(client):
    proto = tf.make_tensor_proto(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    proto.tensor_shape.dim[0].size = 10**12
    refused(grpc.StatusCode.INVALID_ARGUMENT, "Received: 1000000000000", client.predict, proto, signature="pixels")


def test_row_19_a_tensor_of_negative_size_or_with_numbers_beyond_its_type(client):
    negative = tf.make_tensor_proto(IMAGES)
    negative.tensor_shape.dim[0].size = -1
    refused(grpc.StatusCode.INVALID_ARGUMENT, "the shape (N) for images. Received: (-1,)", client.predict, negative)
    proto = tf.make_tensor_proto(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    proto.ClearField("tensor_content")
    proto.int_val.extend([300] * SIDE * SIDE * 3)
    refused(grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: images", client.predict, proto, signature="pixels")


def test_requests_without_a_model_or_with_a_label(client):
    refused(
        grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec", client.prediction.Predict, predict_pb2.PredictRequest()
    )
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = "anchorage", "canary"
    refused(grpc.StatusCode.INVALID_ARGUMENT, "label: canary", client.prediction.Predict, request)


def test_row_27_empty_and_too_large_requests(client):
    found = client.outputs(tf.make_tensor_proto([], tf.string, shape=[0]))
    assert (found["embeddings"].shape, found["valid"].shape) == ((0, DIM), (0,))
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max", client.predict, [bytes(33 * 2**20)])
    assert client.outputs(IMAGES[:1])["valid"].tolist() == [True]


def test_row_25_overload_is_refused_at_once_and_ends(client):
    admission = client.service.admission
    client.portal.call(admission.enter, admission.most - 1)
    try:
        refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "E_OVERLOADED", client.predict, IMAGES[:2])
        assert client.outputs(IMAGES[:1])["valid"].tolist() == [True]
    finally:
        client.portal.call(admission.leave, admission.most - 1)
    assert client.outputs(IMAGES)["valid"].tolist() == [True] * 3


@contextmanager
def busy_model(client):
    end = threading.Event()
    client.service.threads.model.submit(end.wait)
    try:
        yield
    finally:
        end.set()


def test_deadlines_of_the_client_and_of_the_service(client, exported, tmp_path):
    with busy_model(client):
        refused(grpc.StatusCode.DEADLINE_EXCEEDED, "", client.predict, IMAGES, timeout=0.3)
    limits = Limits(request_seconds=0.3)
    with calling(exported, store=f"sqlite:///{tmp_path}/items", limits=limits) as short:
        with busy_model(short):
            refused(grpc.StatusCode.DEADLINE_EXCEEDED, "Expected to answer within 0.3 s", short.predict, IMAGES)
        assert short.service.admission.pending == 0
        assert short.outputs(IMAGES)["valid"].all()


def test_a_model_server_out_of_reach_is_unavailable(client, monkeypatch):
    async def embed(*arguments):
        raise ResourceError("E_MODEL_SERVER", "Expected answers. Received: none")

    monkeypatch.setattr(client.service, "embed", embed)
    refused(grpc.StatusCode.UNAVAILABLE, "E_MODEL_SERVER", client.predict, IMAGES)


def test_methods_of_other_models_are_unimplemented_and_leave_no_trace(client, caplog):
    for call in (client.prediction.Classify, client.prediction.Regress, client.prediction.MultiInference):
        with pytest.raises(grpc.RpcError) as error:
            call(predict_pb2.PredictRequest().FromString(b""), timeout=30)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert not caplog.records


def test_bytes_that_are_no_message_are_refused_and_leave_no_trace(client, caplog):
    for stub in (client.prediction.Predict, client.models.GetModelStatus):
        call = client.channel.unary_unary(stub._method.decode())
        refused(grpc.StatusCode.INVALID_ARGUMENT, "Expected a protocol message", call, b"\xff")
    assert not caplog.records


def test_metadata_has_the_signatures_of_the_saved_model(client, exported):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "anchorage"
    response = client.prediction.GetModelMetadata(request)
    assert response.model_spec.version.value == 2
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    saved = tf.saved_model.load(str(exported / "2"))
    assert set(found.signature_def) == set(saved.signatures)
    for name, signature in saved.signatures.items():
        assert set(found.signature_def[name].outputs) == set(signature.structured_outputs)
    request.metadata_field[:] = ["size"]
    refused(grpc.StatusCode.INVALID_ARGUMENT, "size is not supported", client.prediction.GetModelMetadata, request)
    request.metadata_field[:] = []
    refused(grpc.StatusCode.INVALID_ARGUMENT, "at least one", client.prediction.GetModelMetadata, request)


def test_status_lists_the_loaded_versions(client):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "anchorage"
    (status,) = client.models.GetModelStatus(request).model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (status.version, status.state, status.status.error_code) == (2, available, 0)
    request.model_spec.version.value = 9
    refused(grpc.StatusCode.NOT_FOUND, "version 9 of model anchorage", client.models.GetModelStatus, request)


def test_rows_20_to_23_a_release_that_cannot_be_used_leaves_the_old_one(exported, tmp_path):
    import shutil
    import time

    releases = shutil.copytree(exported, tmp_path / "releases")
    with calling(releases, watch_seconds=0.05) as client:
        damaged = releases / "1/variables/variables.data-00000-of-00001"
        content = bytearray(damaged.read_bytes())
        content[7] ^= 1
        damaged.write_bytes(content)
        (releases / "current").write_text("1\n")
        end = time.monotonic() + 60
        while not client.service.releases.refused:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "E_RELEASE_DAMAGED" in str(client.service.releases.refused)
        assert client.predict(IMAGES).model_spec.version.value == 2
