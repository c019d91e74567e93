import os

import pytest

from anchorage.errors import DataError
from anchorage_pipeline import fingerprint


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project of the same shape, in place of this one."""
    files = {
        "components/anchorage_components/__init__.py": "",
        "components/anchorage_components/trainer.py": "from anchorage.losses import A\ndef f(): import anchorage.late",
        "components/anchorage_components/other.py": "",
        "models/anchorage/__init__.py": "",
        "models/anchorage/late.py": "",
        "models/anchorage/unused.py": "",
        "models/anchorage/losses/__init__.py": "from anchorage.losses.margin import Margin\n",
        "models/anchorage/losses/margin.py": "Margin = 1\n",
        "models/anchorage/losses/page.html": "<p>",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folders = {"anchorage": "models/anchorage", "anchorage_components": "components/anchorage_components"}
    monkeypatch.setattr(fingerprint, "_package", lambda package: tmp_path / folders[package])

    def version():
        fingerprint._imports.cache_clear()
        fingerprint._file.cache_clear()
        return fingerprint.code_version("anchorage_components.trainer")

    yield tmp_path, version
    fingerprint._imports.cache_clear()
    fingerprint._file.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        "components/anchorage_components/trainer.py",
        "models/anchorage/losses/margin.py",
        "models/anchorage/late.py",
        "models/anchorage/losses/page.html",
    ],
)
def test_code_that_is_reached_counts(project, name):
    root, version = project
    before = version()
    (root / name).write_text("# changed\n" + (root / name).read_text())
    assert version() != before


@pytest.mark.parametrize("name", ["components/anchorage_components/other.py", "models/anchorage/unused.py"])
def test_code_that_is_not_reached_does_not_count(project, name):
    root, version = project
    before = version()
    (root / name).write_text("changed = True")
    assert version() == before


def test_a_users_own_module_counts(project, monkeypatch):
    root, _ = project
    monkeypatch.syspath_prepend(str(root))
    (root / "my_loss.py").write_text("a = 1")
    before = fingerprint.code_version("my_loss")
    (root / "my_loss.py").write_text("a = 2")
    assert fingerprint.code_version("my_loss") != before


def test_data_version_sees_names_sizes_times_and_the_table(tmp_path):
    image, table = tmp_path / "a b.png", tmp_path / "table.csv"
    image.write_bytes(b"1")
    table.write_text("path,label\na b.png,x\n")
    os.utime(image, ns=(0, 1))
    seen = [fingerprint.data_version(tmp_path, table)]
    os.utime(image, ns=(0, 2))
    seen.append(fingerprint.data_version(tmp_path, table))
    table.write_text("path,label\na b.png,y\n")
    seen.append(fingerprint.data_version(tmp_path, table))
    image.rename(tmp_path / "b.png")
    seen.append(fingerprint.data_version(tmp_path, table))
    assert len(set(seen)) == 4
    (tmp_path / "other.png").write_bytes(b"1")  # the table does not name it
    assert fingerprint.data_version(tmp_path, table) == seen[-1]
    (tmp_path / "sub").mkdir()
    folder = fingerprint.data_version(tmp_path, None)
    (tmp_path / "sub/c.png").write_bytes(b"1")
    assert fingerprint.data_version(tmp_path, None) != folder


def test_data_version_sees_what_lies_behind_links(tmp_path):
    (tmp_path / "data/.store").mkdir(parents=True)
    (tmp_path / "data/.store/1.png").write_bytes(b"1")
    (tmp_path / "data/a").symlink_to(".store")
    (tmp_path / "far").mkdir()
    (tmp_path / "far/2.png").write_bytes(b"1")
    inside = [fingerprint.data_version(tmp_path / "data", None)]
    (tmp_path / "data/.store/1.png").write_bytes(b"22")
    inside.append(fingerprint.data_version(tmp_path / "data", None))
    (tmp_path / "data/.store/1.png").unlink()
    inside.append(fingerprint.data_version(tmp_path / "data", None))
    assert len(set(inside)) == 3
    (tmp_path / "data/b").symlink_to(tmp_path / "far")
    outside = [fingerprint.data_version(tmp_path / "data", None, follow_links=True)]
    (tmp_path / "far/2.png").write_bytes(b"22")
    outside.append(fingerprint.data_version(tmp_path / "data", None, follow_links=True))
    assert len(set(outside)) == 2
    with pytest.raises(DataError, match="E_PATH_OUTSIDE"):
        fingerprint.data_version(tmp_path / "data", None)


def test_data_version_survives_what_ingestion_rejects(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/gone.png").symlink_to("nowhere.png")
    (tmp_path / "a/loop.png").symlink_to("loop.png")
    broken = fingerprint.data_version(tmp_path, None)
    (tmp_path / "a/nowhere.png").write_bytes(b"1")
    assert fingerprint.data_version(tmp_path, None) != broken
    (tmp_path / "t.csv").write_text("path,label\na\0b.png,x\n,x\n../c.png,x\n")
    assert fingerprint.data_version(tmp_path, tmp_path / "t.csv")
