"""Exports for other runtimes: the examples of the README give the embeddings of the SavedModel, or nothing appears."""

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from anchorage.data.images import load_image
from anchorage.data.store import RecordSpec
from anchorage.encoders import create_encoder
from anchorage.errors import GateError, UsageError
from anchorage.release import fingerprint_model, open_release, publish_release
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.table import Embeddings, write_ids
from anchorage.serving import conversion
from anchorage.serving.conversion import convert_release
from anchorage.serving.export import export_encoder
from anchorage.serving.runtimes import RUNTIMES

SIZE = 16
README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Other runtimes\n")[2].partition("\n## ")[0]

names = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                any(find_spec(module) is None for module in runtime.modules), reason=f"the extra {name} is missing"
            ),
        )
        for name, runtime in RUNTIMES.items()
    ],
)


def is_thorough(item):
    """Each runtime takes seconds to load; what they answer is tested with smaller models, too."""
    readme = item.originalname == "test_the_example_of_the_readme_gives_the_embeddings_of_the_saved_model"
    return readme and item.callspec.params["name"] != "litert"


def publish(folder, encoder, spec, **index_facts):
    """A release of an encoder with the index of forty random vectors."""
    export_encoder(encoder, folder / "model", spec)
    vectors = np.random.default_rng(0).normal(size=(40, encoder.output_shape[-1])).astype(np.float32)
    fingerprint = fingerprint_model(folder / "model")
    save_index(build_index(vectors, neighbors=3), folder / "index", model_fingerprint=fingerprint, **index_facts)
    text = np.array([f"{number}.png" for number in range(40)], object)
    write_ids(folder / "ids", Embeddings(text, text, text, text, vectors))
    publish_release(
        folder / "releases",
        model_folder=folder / "model",
        index_folder=folder / "index",
        files={"gallery.parquet": folder / "ids"},
        facts={"data_root": str(folder)},
    )
    return open_release(folder / "releases")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Its gallery images are wider than high, so that another `fit` gives other pixels."""
    folder = tmp_path_factory.mktemp("release")
    random = np.random.default_rng(1)
    for number in range(40):
        Image.fromarray(random.integers(0, 256, (20, 30, 3), "uint8")).save(folder / f"{number}.png")
    encoder = create_encoder("small", image_size=SIZE, embedding_size=6, widths=(4, 8), pooling="gem")
    return publish(folder, encoder, RecordSpec(SIZE, "pad"), image_size=SIZE, fit="pad")


@names
def test_the_example_of_the_readme_gives_the_embeddings_of_the_saved_model(release, tmp_path, monkeypatch, name):
    document = convert_release(release, name, tmp_path / f"icons-3-{name}")
    assert document == json.loads((tmp_path / f"icons-3-{name}" / "export.json").read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == [f"icons-3-{name}"]
    for file, entry in document["files"].items():
        data = (tmp_path / f"icons-3-{name}" / file).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["size"])
    assert document["release"]["model_fingerprint"] == release.model_fingerprint
    assert document["comparison"]["records"] == "images of the gallery"
    assert document["comparison"]["difference"] < 1e-5
    shape = (document["input"]["shape"], document["input"]["dtype"], document["input"]["fit"])
    assert shape == ([None, SIZE, SIZE, 3], "uint8", "pad")

    (example,) = [code for code in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL) if f"icons-3-{name}" in code]
    assert len(example.splitlines()) <= 5
    images = [path.read_bytes() for path in sorted(release.gallery_path.parents[2].glob("*.png"))[:5]]
    monkeypatch.chdir(tmp_path)
    values = {"pixels": np.stack([load_image(image, SIZE, "pad").numpy() for image in images])}
    exec(example, values)
    model = tf.saved_model.load(str(release.path))
    wanted = model.signatures["serving_default"](images=tf.constant(images))["embeddings"]
    np.testing.assert_allclose(values["embeddings"], wanted, atol=1e-5)


def test_the_preparation_in_the_readme_gives_the_pixels_of_training(tmp_path, monkeypatch):
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL) if "ImageOps" in code]
    corners = np.random.default_rng(2).integers(0, 256, (5, 7, 3), "uint8")
    Image.fromarray(corners).resize((211, 150), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg", exif=_turned())
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(example, values)
    wanted = load_image((tmp_path / "photo.jpg").read_bytes(), 96, "crop").numpy()
    assert (values["pixels"].shape, values["pixels"].dtype) == ((1, 96, 96, 3), np.uint8)
    assert np.abs(values["pixels"][0].astype(int) - wanted).max() <= 2


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@names
def test_a_model_of_vectors(tmp_path, name):
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3), keras.layers.UnitNormalization()])
    release = publish(tmp_path, encoder, RecordSpec(dimension=5))
    document = convert_release(release, name, tmp_path / "out")
    assert document["input"] == {"name": "vectors", "shape": [None, 5], "dtype": "float32"}
    embed = RUNTIMES[name].open(tmp_path / "out" / document["file"])
    vectors = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32)
    product = vectors.astype(float) @ encoder.layers[0].get_weights()[0]  # its bias is zero
    np.testing.assert_allclose(embed(vectors), product / np.linalg.norm(product, axis=1, keepdims=True), atol=1e-5)


def stand_in(monkeypatch, embed):
    """A runtime that needs no package, and whose file is empty."""
    runtime = RUNTIMES["onnx"]._replace(modules=(), packages=(), open=lambda path: embed)
    monkeypatch.setitem(conversion.RUNTIMES, "onnx", runtime)
    monkeypatch.setattr(conversion, "_write", lambda release, endpoint, spec, name, path: path.touch())


@pytest.mark.parametrize(
    "fault",
    ["first call", "error", *(pytest.param(fault, marks=pytest.mark.thorough) for fault in ("not a number", "shape"))],
)
def test_what_differs_at_any_call_is_not_published(release, tmp_path, monkeypatch, fault):
    model, calls = tf.saved_model.load(str(release.path)), []

    def embed(pixels):
        calls.append(len(pixels))
        embeddings = model.signatures["pixels"](images=tf.constant(pixels))["embeddings"].numpy()
        if fault == "first call":  # with three images, and right when called again
            return embeddings + 2e-4 * (calls.count(3) == 1 and len(pixels) == 3)
        if fault == "error":
            raise RuntimeError("no kernel\nfor FlexConv2D")
        return embeddings * np.nan if fault == "not a number" else embeddings[:, :-1]

    stand_in(monkeypatch, embed)
    code = "E_EXPORT_FAILED" if fault in ("shape", "error") else "E_EXPORT_DIFFERS"
    with pytest.raises(GateError, match="Nothing is published") as caught:
        convert_release(release, "onnx", tmp_path / "new" / "out")
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_gallery_that_is_not_there_is_replaced_by_drawn_images(release, tmp_path, monkeypatch):
    monkeypatch.setitem(release.manifest["facts"], "data_root", str(tmp_path / "elsewhere"))
    model = tf.saved_model.load(str(release.path))
    stand_in(monkeypatch, lambda pixels: model.signatures["pixels"](images=tf.constant(pixels))["embeddings"].numpy())
    assert convert_release(release, "onnx", tmp_path / "out")["comparison"]["records"] == "drawn images"


def test_nothing_is_replaced_and_an_extra_is_asked_for(release, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setitem(conversion.RUNTIMES, "litert", RUNTIMES["litert"]._replace(modules=("no_such_runtime",)))
    with pytest.raises(UsageError, match=r"E_EXTRA_MISSING: .*--extra litert"):
        convert_release(release, "litert", tmp_path / "new")
    stand_in(monkeypatch, None)
    with pytest.raises(UsageError, match="E_OUTPUT_EXISTS"):
        convert_release(release, "onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
