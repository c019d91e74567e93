import json
from pathlib import Path

import pytest

from anchorage.release import fingerprint_model, publish_release


class Sources:
    """Model and index folders to publish from; the bytes stand for real ones, which no test here opens."""

    def __init__(self, folder: Path, text: str = "one"):
        self.galleries = 0
        self.model, self.index = folder / "model", folder / "index"
        (self.model / "variables").mkdir(parents=True)
        (self.model / "assets").mkdir()
        (self.index / "scann").mkdir(parents=True)
        (self.model / "saved_model.pb").write_bytes(f"graph {text}".encode())
        (self.model / "variables/variables.index").write_bytes(b"names")
        (self.model / "variables/variables.data-00000-of-00001").write_bytes(text.encode() * 5000)
        (self.model / "learner.keras").write_bytes(b"learner")
        (self.index / "scann/dataset.npy").write_bytes(b"vectors")
        self.write_index_facts(fingerprint_model(self.model))

    def write_index_facts(self, fingerprint: str) -> None:
        facts = {"kind": "brute_force", "rows": 3, "dimension": 8, "model_fingerprint": fingerprint}
        (self.index / "index.json").write_text(json.dumps(facts))

    def publish(self, releases, copy=False, **facts) -> int:
        """Publishes with another gallery each time, unless as a `copy` of what was published last."""
        self.galleries += not copy
        files = {
            "gallery.parquet": b"ids %d" % self.galleries,
            "labels.json": b"[]",
            "thresholds.json": b'{"equal_error": 0.5}',
        }
        return publish_release(releases, model_folder=self.model, index_folder=self.index, files=files, facts=facts)


@pytest.fixture
def make_sources(tmp_path):
    return lambda name: Sources(tmp_path / name, name)


@pytest.fixture
def sources(make_sources):
    return make_sources("one")


@pytest.fixture
def releases(tmp_path):
    return tmp_path / "releases"
