"""The whole pipeline on a small real data set: as a command of its own, again from its cache, and after faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from anchorage.training.checkpoints import Checkpoints
from anchorage_pipeline import api
from anchorage_pipeline.cli import main
from anchorage_pipeline.datasets.shapes import draw_shapes
from anchorage_pipeline.lock import hold_folder

pytestmark = pytest.mark.slow

_TOY = Path(__file__).parents[2] / "pipeline/experiments/toy.toml"
_COMMAND = (sys.executable, "-m", "anchorage_pipeline.cli")
_RUN = ("run", "toy.toml", "--set", "data.max_rejects=9")


@pytest.fixture
def anchorage(folder, monkeypatch, capsys):
    """Runs a command in the folder; in this process, where TensorFlow and TFX are loaded already."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        capsys.readouterr()
        return subprocess.CompletedProcess(arguments, main(arguments), *capsys.readouterr())

    return run


def states(done):
    """State of each node, from what the command printed."""
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith(" s") and line.startswith("  ")]
    return {row[0]: row[1] for row in rows if row[1] in {"complete", "cached"}}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A working folder, with a space and an umlaut in its name, and what the command said that ran the toy in it."""
    folder = tmp_path_factory.mktemp("a földer")
    draw_shapes(folder / "data/shapes")
    damaged = folder / "data/shapes/star-blue/damaged ü.png"
    damaged.write_bytes((folder / "data/shapes/star-blue/000.png").read_bytes()[:150])
    Image.open(folder / "data/shapes/star-blue/001.png").convert("CMYK").save(folder / "data/shapes/star-blue/c.jpg")
    shutil.copy(_TOY, folder / "toy.toml")
    done = subprocess.run([*_COMMAND, *_RUN], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


@pytest.fixture
def folder(first_run):
    """The working folder after the first run; each test leaves the experiment as it was."""
    folder, _ = first_run
    yield folder
    shutil.copy(_TOY, folder / "toy.toml")


def test_a_run_publishes_a_release_and_shows_where(first_run):
    folder, done = first_run
    assert set(states(done).values()) == {"complete"}
    assert "FIRST" in done.stdout
    assert "release  releases/toy/1" in done.stdout
    release = folder / "releases/toy/1"
    assert (release / "saved_model.pb").is_file()
    assert (release / "manifest.json").is_file()
    assert (release / "report/report.html").is_file()
    assert not list(release.rglob("*.pkl"))
    for record in (release / "manifest.json", release / "report/report.json"):
        facts = json.loads(record.read_text(encoding="utf-8"))["facts"]
        assert facts["command"] == "anchorage run toy.toml --set data.max_rejects=9"
        assert facts["experiment_file"] == _TOY.read_text(encoding="utf-8")
        assert facts["experiment"]["data"]["max_rejects"] == 9
        assert facts["data_root"] == str(folder / "data/shapes")
    assert "--set data.max_rejects=9</pre>" in (release / "report/report.html").read_text(encoding="utf-8")
    assert (folder / "releases/toy/current").read_text().strip() == "1"


def test_no_node_packs_tfx_for_workers_that_there_are_not(folder):
    assert "sdist package" not in (folder / "runs/toy/run.log").read_text(encoding="utf-8")


def test_a_second_run_takes_everything_from_the_cache(folder, anchorage):
    done = anchorage(*_RUN)
    assert done.returncode == 0, done.stderr
    assert set(states(done).values()) == {"cached"}
    assert (folder / "releases/toy/current").read_text().strip() == "1"
    done = anchorage(*_RUN, "--json")
    result = json.loads(done.stdout)
    assert {node["state"] for node in result["nodes"].values()} == {"CACHED"}
    assert result["release"] == {"path": str(folder / "releases/toy/1"), "version": 1, "current": True}
    assert result["verdict"]["state"] == "FIRST"
    assert "[ 1/" in done.stderr
    done = anchorage(*_RUN, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[ 1/" not in done.stdout
    assert "release  releases/toy/1" in done.stdout


def test_python_returns_what_the_command_prints(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = api.run("toy.toml", ["data.max_rejects=9"])
    assert (run.verdict, run.release, set(run.nodes.values())) == ("FIRST", folder / "releases/toy/1", {"CACHED"})
    report = api.report(run.release)
    assert run.metrics == {name: metric["value"] for name, metric in report["metrics"].items()}
    assert run.report.is_file()
    queries = sorted((folder / "data/shapes").glob("*/003.png"))[:2]
    answers = api.open_release(folder / "releases/toy").search([queries[0], Image.open(queries[1])], k=2)
    assert [answer.left_out for answer in answers] == [[f"{q.parent.name}/{q.name}"] for q in queries]


def test_search_looks_through_the_whole_catalogue_and_leaves_out_the_query_itself(folder, anchorage):
    report = json.loads((folder / "releases/toy/1/report/report.json").read_text())
    assert report["counts"]["queries"] > 50
    import pyarrow.parquet as pq

    gallery = pq.read_table(folder / "releases/toy/1/gallery.parquet")
    assert gallery.num_rows == report["index"]["rows"] == sum(row["images"] for row in report["dataset"])
    assert set(gallery["split"].to_pylist()) == {"train", "val", "test"}
    assert report["counts"]["gallery"] == report["index"]["splits"]["test"] < gallery.num_rows
    name = gallery["id"][gallery["split"].to_pylist().index("train")].as_py()
    (folder / "not an image.jpg").write_text("hello")
    queries = (f"data/shapes/{name}", "not an image.jpg")
    done = anchorage("search", *queries, "--neighbors", "3", "--picture", "s.png")
    assert done.returncode == 0, done.stderr
    _, itself, *answers = done.stdout.splitlines()
    assert itself == f"  the query image is in the gallery and left out of its results: {name}"
    assert all(name not in answer for answer in answers[:3])
    assert [answer.split()[0] for answer in answers[:3]] == ["1", "2", "3"]
    assert "E_IMAGE_FORMAT" in done.stdout
    assert "no match probability and no unknown queries: split 'val': " in done.stdout  # of eight classes
    assert Image.open(folder / "s.png").width > 400


def test_embed_writes_a_table_and_names_what_it_could_not_read(folder, anchorage):
    done = anchorage("embed", "data/shapes/star-blue", "--output", "out/vectors.parquet")
    assert done.returncode == 0, done.stderr
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "out/vectors.parquet")
    assert table.num_rows == 13
    assert len(table["vector"][0]) == 32
    [reject] = map(json.loads, (folder / "out/vectors.parquet.rejects.jsonl").read_text().splitlines())
    assert "damaged" in reject["path"]


def test_evaluate_gives_the_numbers_of_the_report(folder, anchorage, capsys):
    [judged] = folder.glob("runs/*/artifacts/EvaluateRetrieval/report/*/report.json")
    report = json.loads(judged.read_text(encoding="utf-8"))
    table = str(judged.parent / "embeddings.parquet")
    done = anchorage("evaluate", table, "--metrics", "map@r", "recall@1", "--output", "out/judged")
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "out/judged/metrics.json").read_text(encoding="utf-8"))
    for name, value in result["values"].items():
        assert value == pytest.approx(report["metrics"][name]["value"], abs=1e-6)
    counted = (result["queries"], result["gallery"])
    assert counted == (report["counts"]["queries"], report["counts"]["gallery"])
    assert f"{result['queries']:,} of {result['all_queries']:,} queries" in done.stdout
    assert main(["evaluate", str(folder / "nowhere"), "--output", str(folder / "out/judged")]) == 3
    assert "E_TABLE_MISSING" in capsys.readouterr().err


@pytest.mark.thorough
def test_another_index_leaves_training_and_embedding_cached_then_rolls_back(folder, anchorage):
    (folder / "toy.toml").write_text(_TOY.read_text() + "\n[index]\nneighbors = 5\n")
    done = anchorage(*_RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = states(done)
    for node in ("ImageExampleGen", "PackExamples", "Trainer", "EmbedExamples"):
        assert seen[node] == "cached"
    for node in ("BuildIndex", "EvaluateRetrieval", "PublishRelease"):
        assert seen[node] == "complete"
    assert "SHIP" in done.stdout
    assert (folder / "releases/toy/current").read_text().strip() == "2"
    assert anchorage("releases", "rollback").returncode == 0
    assert (folder / "releases/toy/current").read_text().strip() == "1"


@pytest.mark.thorough
def test_a_model_below_its_floor_is_not_published(folder, anchorage):
    (folder / "toy.toml").write_text(_TOY.read_text().replace('"map@r" = 0.05', '"map@r" = 0.999'))
    done = anchorage(*_RUN)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "E_NOT_BLESSED" in done.stderr
    assert "HOLD" in done.stdout
    assert not (folder / "releases/toy/3").exists()


@pytest.mark.thorough
def test_a_training_killed_twice_goes_on_where_it_was(folder, anchorage, monkeypatch):
    (folder / "toy.toml").write_text(_TOY.read_text().replace("epochs = 6", "epochs = 12"))
    kill_after_a_checkpoint(folder)
    save = Checkpoints.save

    def stop_after_saving(self, learner, progress):
        path = save(self, learner, progress)
        os.kill(os.getpid(), signal.SIGTERM)
        return path

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_after_saving)
        stopped = anchorage(*_RUN)
    assert stopped.returncode == 4
    assert "resuming after step" in stopped.stdout
    done = anchorage(*_RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in done.stdout
    assert not list(folder.glob("runs/toy/checkpoints/*/step-*"))


def kill_after_a_checkpoint(folder):
    """Start a run in a process of its own, and kill it as soon as it has written a checkpoint after epoch 0."""
    with (folder / "out.txt").open("w") as out:
        child = subprocess.Popen([*_COMMAND, *_RUN], cwd=folder, stdout=out, stderr=out)
        deadline = time.monotonic() + 300
        while len(set(folder.glob("runs/toy/checkpoints/*/step-*"))) < 2:
            assert time.monotonic() < deadline, (folder / "out.txt").read_text()
            assert child.poll() is None, (folder / "out.txt").read_text()
            time.sleep(0.1)
        child.kill()
        assert child.wait(timeout=60) == -signal.SIGKILL


def test_unknown_loss_and_parameter_stop_before_anything_runs(folder, anchorage, tmp_path):
    for old, new, text in (
        ('name = "multi_proxy_anchor"', 'name = "contrastiv"', "contrastive"),
        ("proxies_per_class = 1", "proxies = 1", "proxies_per_class"),
    ):
        (folder / "wrong.toml").write_text(_TOY.read_text().replace(old, new).replace('"toy"', '"wrong"'))
        done = anchorage("run", "wrong.toml")
        assert done.returncode == 2, done.stderr
        assert text in done.stderr
        assert done.stderr.count("\n") == 2  # what is wrong with the file, and a line for its one mistake
        assert not (folder / "runs/wrong/metadata.sqlite").exists()


@pytest.mark.thorough
def test_a_deleted_release_is_published_again_and_a_run_names_its_own(folder, anchorage):
    current = int((folder / "releases/toy/current").read_text())
    for release in folder.glob("releases/toy/[0-9]*"):
        if int(release.name) > current:  # rolled back by another test, it would be what a deleted one is compared with
            shutil.rmtree(release)
    (folder / "toy.toml").write_text(_TOY.read_text() + "\n[index]\nneighbors = 7\n")
    first = anchorage(*_RUN)
    assert first.returncode == 0, first.stdout + first.stderr
    mine = int((folder / "releases/toy/current").read_text())
    shutil.rmtree(folder / f"releases/toy/{mine}")
    again = anchorage(*_RUN)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"release  releases/toy/{mine + 1}\n" in again.stdout
    assert (folder / f"releases/toy/{mine + 1}/manifest.json").is_file()
    assert states(again)["PublishRelease"] == "complete"
    assert states(again)["EvaluateRetrieval"] == "cached"
    assert anchorage("releases", "rollback").returncode == 0
    current = (folder / "releases/toy/current").read_text().strip()
    rolled_back = anchorage(*_RUN)
    assert rolled_back.returncode == 0, rolled_back.stdout + rolled_back.stderr
    assert f"release  releases/toy/{mine + 1}\n" in rolled_back.stdout
    assert f"release {current} is the current one, not this one" in rolled_back.stdout


def test_f24_a_second_run_is_refused_while_the_first_goes_on(folder, anchorage):
    with hold_folder(folder / "runs/toy", "toy"):
        done = anchorage(*_RUN)
    assert done.returncode == 4
    assert f"E_RUN_LOCKED: Expected {folder}/runs/toy to be free. It is in use by process {os.getpid()}" in done.stderr
