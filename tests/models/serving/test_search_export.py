"""The export with ScaNN's operations answers in a fresh process as exact search does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from exported import picture, publish_exported

from anchorage.errors import UsageError
from anchorage.release import open_release
from anchorage.retrieval.index import load_vectors
from anchorage.serving.search_export import export_search

PROGRAM = """
import json, sys
from pathlib import Path
if sys.argv[3] == "scann":
    import scann
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = [path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())]
found = model.signatures["serving_default"](images=tf.constant(images))
texts = {name: [[text.decode() for text in row] for row in found[name].numpy()] for name in ("ids", "labels")}
empty = model.signatures["serving_default"](images=tf.constant([], tf.string))
shapes = {name: value.shape.as_list() for name, value in empty.items()}
numbers = {"scores": found["scores"].numpy().tolist(), "valid": found["valid"].numpy().tolist()}
print(json.dumps({**texts, **numbers, "empty": shapes}))
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    publish_exported(folder, count=24)
    return open_release(folder / "releases")


@pytest.fixture(scope="module")
def exported(release, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "model"
    return folder, export_search(release, folder, neighbors=4)


@pytest.mark.thorough
def test_a_fresh_process_finds_the_exact_neighbours(release, exported, tmp_path):
    folder, recall = exported
    assert recall == 1
    queries = [picture(3), picture(100), b"no image", picture(101, "JPEG")]
    for number, query in enumerate(queries):
        (tmp_path / f"{number}").write_bytes(query)
    command = [sys.executable, "-c", PROGRAM, str(folder), str(tmp_path)]
    ran = subprocess.run([*command, "scann"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    model = tf.saved_model.load(str(release.path))
    embeddings = model.signatures["serving_default"](images=tf.constant(queries))["embeddings"].numpy()
    similarities = embeddings @ load_vectors(release.index_folder).T
    assert found["valid"] == [True, True, False, True]
    for row in (0, 1, 3):
        nearest = np.argsort(-similarities[row])[:4]
        assert found["ids"][row] == [f"item {number}" for number in nearest]
        assert found["labels"][row] == [f"class {number}" for number in nearest]
        np.testing.assert_allclose(found["scores"][row], similarities[row][nearest], atol=1e-5)
    assert found["ids"][0][0] == "item 3"
    assert found["empty"] == {"ids": [0, 4], "labels": [0, 4], "scores": [0, 4], "valid": [0]}
    without = subprocess.run([*command, "nothing"], capture_output=True, text=True)
    assert "Op type not registered 'Scann>" in without.stderr


def test_the_release_itself_has_no_operations_of_scann(release):
    assert b"Scann>" not in (release.path / "saved_model.pb").read_bytes()


def test_rejects_a_used_folder_and_no_neighbors(release, exported):
    with pytest.raises(UsageError, match="E_FOLDER_NOT_EMPTY"):
        export_search(release, exported[0])
    with pytest.raises(UsageError, match=r"E_NEIGHBORS: .* Received: 0"):
        export_search(release, exported[0].with_name("other"), neighbors=0)
