import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anchorage_pipeline.cli import main
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.datasets.shapes import draw_shapes
from anchorage_pipeline.plain import Trained
from anchorage_pipeline.spread import worker

_ROOT = Path(__file__).parents[3]


def test_a_query_leaves_out_its_own_family(tmp_path, monkeypatch):
    """Nearest to each query is its own class in its own family; where that is left out, the other class comes first."""
    angles = {"a1": 0, "a2": 1, "b1": 20, "b2": 21, "a3": 50, "b3": 72}
    families = {"a1": "x", "a2": "x", "b1": "y", "b2": "y", "a3": "z", "b3": "z"}
    rows = [f"{name}.png,{name[0]},test,{families[name]}" for name in angles]
    Image.new("RGB", (4, 4)).save(tmp_path / "t1.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "v1.png")
    for name in angles:
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    table = "\n".join(["path,label,split,family", "t1.png,t,train,x", "v1.png,v,val,x", *rows])
    (tmp_path / "table.csv").write_text(table + "\n")
    ids = np.array([f"{name}.png" for name in sorted(angles)], object)
    store = SimpleNamespace(ids=ids, labels=np.array([0, 0, 0, 1, 1, 1]), roles=np.full(6, "both", object))
    radians = np.deg2rad([angles[name] for name in sorted(angles)])
    vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    monkeypatch.setattr("anchorage.training.validation.embed_store", lambda learner, of: vectors)

    def values(**evaluation):
        document = {
            "name": "toy",
            "data": {"path": str(tmp_path / "table.csv")},
            "evaluation": {"metrics": ["recall@1"], "primary": "recall@1", "slices": [], **evaluation},
        }
        return worker._evaluate(Experiment.model_validate(document), Trained(None, None, None, store, tmp_path))

    # a1, a2, b1 and b2 find each other; a3 at 50 has a b nearest (b3 at 72), as b3 has an a.
    assert values() == {"recall@1": pytest.approx(4 / 6)}
    # Without their families: a1, a2 -> b1; b1, b2 -> a2; a3 -> b2 at 21; b3 -> b2.
    assert values(leave_out="family") == {"recall@1": pytest.approx(1 / 6)}


@pytest.mark.thorough
def test_a_seed_gives_what_training_with_that_seed_gives_and_is_not_trained_twice(tmp_path, monkeypatch, capsys):
    """`anchorage train` with the seed in the file is the oracle; the folders hold the split: no seed deals it."""
    draw_shapes(tmp_path / "drawn")
    classes = sorted((tmp_path / "drawn").iterdir())
    for number, folder in enumerate(classes):
        split = ("train", "train", "test", "val")[number % 4]
        (tmp_path / "data" / split).mkdir(parents=True, exist_ok=True)
        folder.rename(tmp_path / "data" / split / folder.name)
    text = (_ROOT / "pipeline/experiments/toy.toml").read_text(encoding="utf-8")
    text = text.replace("data/shapes", "data").replace("epochs = 6", "epochs = 2").replace("epoch = 8", "epoch = 4")
    (tmp_path / "toy.toml").write_text(text)
    (tmp_path / "second.toml").write_text(text.replace("seed = 1", "seed = 2").replace('"toy"', '"second"'))
    monkeypatch.chdir(tmp_path)
    spread = ["spread", "toy.toml", "--seeds", "1", "2", "--machine", "here"]
    assert main(spread) == 0
    output = capsys.readouterr().out
    kept = json.loads((tmp_path / "runs/toy/spread.json").read_text(encoding="utf-8"))
    first, second = kept["rows"]
    assert (first["seed"], second["seed"]) == (1, 2)
    assert first["values"] != second["values"]
    assert first["machine"]["name"] == "here"
    mean = 100 * (first["values"]["map@r"] + second["values"]["map@r"]) / 2
    [line] = [line.split() for line in output.splitlines() if line.startswith("map@r")]
    assert float(line[1]) == pytest.approx(mean, abs=0.051)
    assert main(["train", "second.toml"]) == 0
    metrics = json.loads((tmp_path / "runs/second/train/metrics.json").read_text(encoding="utf-8"))
    assert second["values"] == metrics["values"]
    assert second["best_epoch"] == metrics["best_epoch"]
    assert not list((tmp_path / "runs/toy/spread/work/checkpoints").iterdir())
    assert main(spread) == 0
    assert capsys.readouterr().out.count("measured") == 2
    assert json.loads((tmp_path / "runs/toy/spread.json").read_text(encoding="utf-8")) == kept
