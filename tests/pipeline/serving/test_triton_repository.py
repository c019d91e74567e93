"""Model repositories for Triton, as files; test_triton.py serves one."""

import json

import pytest
import tensorflow as tf
from exported import DIM, picture, publish_two

from anchorage.errors import UsageError
from anchorage.release import open_release
from anchorage_pipeline.cli import main
from anchorage_pipeline.serving.triton_repository import write_repository


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    return publish_two(tmp_path_factory.mktemp("exported"))


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_versions_are_added_and_replaced(releases, tmp_path, capsys):
    for version in ("1", "2"):
        command = ["export", "model", str(releases / version), "--to", "triton", "--output", str(tmp_path), "--json"]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out) == {
            "folder": str(tmp_path), "model": "anchorage", "version": int(version)
        }  # fmt: skip
    model = tmp_path / "anchorage"
    (model / "2" / "stray").write_text("")
    assert write_repository(open_release(releases), tmp_path) == model / "2"
    assert sorted(path.name for path in model.iterdir()) == [".lock", "1", "2", "config.pbtxt"]
    assert {"model.py", "saved_model/saved_model.pb"} <= set(files(model / "2"))
    assert not {"stray", "saved_model/report/report.html"} & set(files(model / "2"))
    saved = tf.saved_model.load(str(model / "1" / "saved_model"))
    assert saved.signatures["serving_default"](images=tf.constant([picture(1)]))["embeddings"].shape == (1, DIM)


def test_a_model_with_another_input_is_refused(releases, tmp_path):
    write_repository(open_release(releases), tmp_path)
    config = tmp_path / "anchorage" / "config.pbtxt"
    config.write_text(config.read_text().replace('"images"', '"vectors"'))
    before = files(tmp_path)
    with pytest.raises(UsageError, match=r"E_MODEL_REPOSITORY: .*config\.pbtxt"):
        write_repository(open_release(releases / "1"), tmp_path)
    assert files(tmp_path) == before
