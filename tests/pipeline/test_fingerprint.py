import pytest

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
