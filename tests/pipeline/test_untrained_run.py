"""An encoder is released as it is, from photos without labels or with some, and searched by image and by text."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from command import run_command
from PIL import Image
from presets import SIZE, save_preset

# `test_embed_untrained`, `test_evaluate_unlabelled` and `test_searcher` have the parts.
pytestmark = pytest.mark.thorough

_EXPERIMENT = f"""
name = "photos"
[data]
path = "photos"
image_size = {SIZE}
[encoder]
name = "hub:tiny_clip"
[training]
epochs = 0
"""


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(blocks).resize((80, 60), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def backbone_and_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    backbone = save_preset(folder / "encoders/tiny_clip", "clip")
    for number in range(24):
        draw(folder / f"photos/IMG_{number:04}.jpg", number)
    (folder / "photos/IMG_0000 copy.jpg").write_bytes((folder / "photos/IMG_0000.jpg").read_bytes())
    (folder / "photos.toml").write_text(_EXPERIMENT)
    done = run_command(folder, "run", "photos.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    return backbone, folder, done


def test_photos_without_labels_become_a_release(backbone_and_folder):
    _, folder, done = backbone_and_folder
    assert "verdict  FIRST: Nothing could be measured" in done.stdout
    assert 'search --text "DESCRIPTION"' in done.stdout
    assert "EmbedUntrained" not in done.stdout
    gallery = pq.read_table(folder / "releases/photos/1/gallery.parquet")
    assert gallery.num_rows == 25
    facts = json.loads((folder / "releases/photos/1/manifest.json").read_text())["facts"]
    assert {"name", "license", "digest"} == set(facts["preset"])
    assert "license of its weights" in (folder / "releases/photos/1/report/report.html").read_text()


def test_search_by_text_gives_the_images_nearest_to_the_description(backbone_and_folder):
    backbone, folder, _ = backbone_and_folder
    done = run_command(folder, "search", "--text", "red cat", "--neighbors", "25")
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()[1:26]]
    from keras_hub.models import CLIPPreprocessor

    preprocessor = CLIPPreprocessor.from_preset(str(folder / "encoders/tiny_clip"))
    tokens = preprocessor({"prompts": ["red cat"], "images": None})["token_ids"]
    text = np.asarray(backbone.get_text_embeddings(tokens))[0]
    text = text / np.linalg.norm(text)
    model = tf.saved_model.load(str(folder / "releases/photos/1"))
    for _, score, name, *more in found:
        image = tf.constant([(folder / "photos" / " ".join([name, *more])).read_bytes()])
        embedding = model.signatures["serving_default"](images=image)["embeddings"].numpy()[0]
        assert float(score) == pytest.approx(float(embedding @ text), abs=1e-3)
    scores = [float(row[1]) for row in found]
    assert scores == sorted(scores, reverse=True)


def test_search_by_image_shows_a_name_once(backbone_and_folder):
    _, folder, _ = backbone_and_folder
    done = run_command(folder, "search", "photos/IMG_0003.jpg", "--neighbors", "2")
    assert (done.returncode, done.stderr) == (0, "")  # no messages of TensorFlow's native code
    assert all(len(line.split()) in (3, 4) for line in done.stdout.splitlines()[2:4])


@pytest.mark.thorough
def test_another_preset_is_another_release_and_labels_are_measured(backbone_and_folder):
    _, folder, _ = backbone_and_folder
    for number in range(60):  # 12 classes of five similar pictures
        path = folder / f"shop/{number // 5}/{number}.png"
        draw(path, number // 5)
        noisy = np.asarray(Image.open(path)) + np.random.default_rng(number).integers(0, 20, (60, 80, 3))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path)
    save_preset(folder / "encoders/tiny_dino", "dinov2")
    text = _EXPERIMENT.replace("photos", "shop").replace("tiny_clip", "tiny_dino")
    (folder / "shop.toml").write_text(text)
    done = run_command(folder, "run", "shop.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict  FIRST" in done.stdout
    report = json.loads((folder / "releases/shop/1/report/report.json").read_text())
    assert report["metrics"]["recall@1"]["value"] > 0.5
    assert "untrained" not in report
    refused = run_command(folder, "search", "--text", "red cat", "--release", "releases/shop")
    assert refused.returncode == 2
    assert "E_NO_TEXT" in refused.stderr
    assert "hub:tiny_dino" in refused.stderr
    weights = folder / "encoders/tiny_dino/model.weights.h5"
    os.utime(weights, (1, 1))  # the same bytes: nothing is done again
    again = run_command(folder, "run", "shop.toml")
    assert again.returncode == 0, again.stderr
    assert "Trainer                  cached" in again.stdout
    (folder / "encoders/tiny_dino/README.md").write_text("changed")
    changed = run_command(folder, "run", "shop.toml")
    assert "Trainer                  complete" in changed.stdout, changed.stderr
