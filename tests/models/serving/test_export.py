"""The exported model answers for bytes as the encoder does for the pixels that training reads."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from anchorage.data.examples import Example, encode_example
from anchorage.data.images import load_image
from anchorage.data.store import RecordSpec
from anchorage.encoders import create_encoder
from anchorage.release import fingerprint_model
from anchorage.serving.export import export_encoder

SIZE = 16


def encoded(width, height, kind):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype="uint8")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


IMAGES = [encoded(40, 30, "PNG"), encoded(21, 50, "JPEG"), encoded(16, 16, "GIF")]


@pytest.fixture(scope="module", params=["crop", "pad"])
def exported(request, tmp_path_factory):
    encoder = create_encoder("small", image_size=SIZE, embedding_size=6, widths=(4, 8), pooling="gem")
    folder = tmp_path_factory.mktemp("export") / "1"
    export_encoder(encoder, folder, RecordSpec(SIZE, request.param))
    model = tf.saved_model.load(str(folder))
    model.anchorage_test_folder = str(folder)
    return encoder, model, request.param


def test_bytes_and_pixels_agree_with_the_encoder(exported):
    encoder, model, fit = exported
    pixels = np.stack([load_image(data, SIZE, fit) for data in IMAGES])
    wanted = np.asarray(encoder(pixels))
    from_bytes = model.signatures["serving_default"](images=tf.constant(IMAGES))
    from_pixels = model.signatures["pixels"](images=tf.constant(pixels))
    for outputs in (from_bytes, from_pixels):
        assert outputs["embeddings"].dtype == tf.float32
        np.testing.assert_allclose(outputs["embeddings"], wanted, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-6)


def test_other_runtimes_get_the_encoder_without_control_flow(exported):
    encoder, model, fit = exported
    pixels = np.stack([load_image(data, SIZE, fit) for data in IMAGES])
    convert = model.signatures["convert"]
    np.testing.assert_allclose(convert(images=tf.constant(pixels))["embeddings"], encoder(pixels), atol=1e-6)
    definition = convert.graph.as_graph_def()
    used, operations = {node.attr["f"].func.name for node in definition.node}, set()
    functions = {function.signature.name: function.node_def for function in definition.library.function}
    while used := {name for name in used if name}:
        nodes = [node for name in used for node in functions[name]]
        operations |= {node.op for node in nodes}
        used = {node.attr["f"].func.name for node in nodes}
    assert "Conv2D" in operations
    assert operations.isdisjoint({"If", "StatelessIf", "While", "StatelessWhile", "Pad", "PadV2"})


def test_signatures_are_strict(exported):
    _, model, _ = exported
    signature = model.signatures["pixels"].structured_input_signature[1]["images"]
    assert (signature.shape.as_list(), signature.dtype) == ([None, SIZE, SIZE, 3], tf.uint8)
    assert model.signatures["serving_default"](images=tf.constant([], tf.string))["embeddings"].shape == (0, 6)
    outputs = {name: sorted(signature.structured_outputs) for name, signature in model.signatures.items()}
    both = ["embeddings", "valid"]
    assert outputs == {"serving_default": both, "examples": both, "pixels": ["embeddings"], "convert": ["embeddings"]}


def bomb():
    """16,000 x 16,000 pixels in 30 kB."""
    buffer = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "empty": b"",
    "no image": b"<html>not found</html>",
    "cut JPEG": encoded(60, 50, "JPEG")[:900],
    "cut PNG": encoded(60, 50, "PNG")[:900],
    "JPEG without its end": encoded(60, 50, "JPEG")[:-400],
    "bomb": bomb(),
}


def as_example(value, name="image/encoded"):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Example(features=tf.train.Features(feature={name: feature})).SerializeToString()


def test_bad_images_get_zeros_in_their_own_rows(exported):
    _, model, _ = exported
    batch = [IMAGES[0], *BAD.values(), IMAGES[1]]
    outputs = model.signatures["serving_default"](images=tf.constant(batch))
    assert outputs["valid"].numpy().tolist() == [True] + [False] * len(BAD) + [True]
    assert not outputs["embeddings"][1:-1].numpy().any()
    alone = model.signatures["serving_default"](images=tf.constant(IMAGES[:2]))["embeddings"]
    np.testing.assert_allclose(outputs["embeddings"].numpy()[[0, -1]], alone, atol=1e-6)
    none_is_valid = model.signatures["serving_default"](images=tf.constant([b"", b"x"]))
    assert not none_is_valid["valid"].numpy().any()


def test_examples_answer_as_their_images_do(exported):
    _, model, _ = exported
    from_bytes = model.signatures["serving_default"](images=tf.constant(IMAGES))["embeddings"]
    examples = [
        *map(as_example, IMAGES),
        as_example(BAD["cut JPEG"]),
        as_example(IMAGES[0], "another feature"),
        b"\xff no example",
        b"",
    ]
    outputs = model.signatures["examples"](examples=tf.constant(examples))
    assert outputs["valid"].numpy().tolist() == [True] * 3 + [False] * 4
    np.testing.assert_allclose(outputs["embeddings"][:3], from_bytes, atol=1e-6)
    assert not outputs["embeddings"][3:].numpy().any()


def is_thorough(item):
    return hasattr(item, "callspec") and item.callspec.params.get("exported") == "pad"


def test_answers_are_the_same_in_a_process_without_this_package(exported):
    _, model, _ = exported
    program = (
        "import sys, json, base64, tensorflow as tf; model = tf.saved_model.load(sys.argv[1]); "
        "images = [base64.b64decode(text) for text in json.load(sys.stdin)]; "
        "outputs = model.signatures['serving_default'](images=tf.constant(images)); "
        "assert not [name for name in sys.modules if name.startswith('anchorage')]; "
        "print(json.dumps({name: value.numpy().tolist() for name, value in outputs.items()}))"
    )
    batch = [IMAGES[0], BAD["cut JPEG"], IMAGES[1]]
    folder = Path(model.anchorage_test_folder)
    sent = json.dumps([base64.b64encode(image).decode() for image in batch])
    ran = subprocess.run([sys.executable, "-c", program, str(folder)], input=sent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["valid"] == [True, False, True]
    here = model.signatures["serving_default"](images=tf.constant(batch))["embeddings"]
    np.testing.assert_allclose(answer["embeddings"], here, atol=1e-6)


def test_warm_up_requests_are_those_of_tensorflow_serving_with_their_answers(exported):
    _, model, _ = exported
    path = Path(model.anchorage_test_folder) / "assets.extra/tf_serving_warmup_requests"
    logs = [PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log"] * 6
    names = []
    for log in logs:
        request, response = log.predict_log.request, log.predict_log.response
        ((argument, batch),) = request.inputs.items()
        names.append((request.model_spec.signature_name, tf.make_ndarray(batch).shape[0]))
        outputs = model.signatures[names[-1][0]](**{argument: tf.make_ndarray(batch)})
        assert set(response.outputs) == set(outputs)
        for name, value in outputs.items():
            np.testing.assert_allclose(tf.make_ndarray(response.outputs[name]), value, atol=1e-5)
        assert np.linalg.norm(tf.make_ndarray(response.outputs["embeddings"]), axis=1) == pytest.approx(1, abs=1e-5)
    assert names == [(name, n) for name in ("serving_default", "examples", "pixels") for n in (1, 4)]


def test_vectors_that_cannot_be_embedded_are_marked(tmp_path):
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=True, bias_initializer="ones")])
    export_encoder(encoder, tmp_path, RecordSpec(dimension=3))
    model = tf.saved_model.load(str(tmp_path))
    vectors = np.array([[1, 2, 3], [np.nan, 0, 1], [0, 0, 0], [np.inf, 1, 1], [3, 2, 1]], np.float32)
    outputs = model.signatures["serving_default"](vectors=tf.constant(vectors))
    assert outputs["valid"].numpy().tolist() == [True, False, False, False, True]
    np.testing.assert_allclose(outputs["embeddings"].numpy()[[0, 4]], np.asarray(encoder(vectors[[0, 4]])), atol=1e-6)
    assert not outputs["embeddings"].numpy()[1:4].any()
    examples = [encode_example(Example("", "", "query", vector)) for vector in (vectors[4], vectors[0][:2])]
    from_examples = model.signatures["examples"](examples=tf.constant(examples))
    assert from_examples["valid"].numpy().tolist() == [True, False]
    np.testing.assert_allclose(from_examples["embeddings"][0], outputs["embeddings"][4], atol=1e-6)


@pytest.mark.thorough
def test_a_trained_bfloat16_encoder_answers_in_float32(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = create_encoder("small", image_size=SIZE, embedding_size=6, widths=(4, 8))
        export_encoder(encoder, tmp_path / "1", RecordSpec(SIZE))
    finally:
        keras.config.set_dtype_policy(before)
    answer = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](images=tf.constant(IMAGES))
    assert answer["embeddings"].dtype == tf.float32
    pixels = np.stack([load_image(data, SIZE, "crop") for data in IMAGES])
    np.testing.assert_allclose(answer["embeddings"], encoder(pixels), atol=2e-2)


@pytest.mark.thorough
def test_two_exports_of_one_model_have_one_fingerprint_and_others_have_others(tmp_path):
    options = {"image_size": SIZE, "embedding_size": 6, "widths": (4, 8), "pooling": "gem"}
    encoder, twin = create_encoder("small", **options), create_encoder("small", **options)  # with other names within
    changed = create_encoder("small", **options, normalize=False)
    twin.set_weights(encoder.get_weights())
    changed.set_weights(encoder.get_weights())

    def fingerprint(model, fit="crop"):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        export_encoder(model, folder, RecordSpec(SIZE, fit))
        return fingerprint_model(folder)

    first = fingerprint(encoder)
    assert fingerprint(twin) == first
    assert fingerprint(changed) != first  # the same weights in another network
    assert fingerprint(encoder, fit="pad") != first
    weights = twin.get_weights()
    weights[0].flat[3] += 1e-3
    twin.set_weights(weights)
    assert fingerprint(twin) != first
