"""The scripts and the notebook in pipeline/examples run as a reader would run them, and do what they say."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "pipeline" / "examples"


def run(script, *arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, FOLDER / script, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Runs a script in the temporary folder, in this process, where TensorFlow is loaded already."""

    def run(script, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_losses_only_improves_retrieval(tmp_path):
    output = run("losses_only.py", cwd=tmp_path)
    values = {
        name: (float(a), float(b)) for name, a, b in re.findall(r"(\S+) on .*: ([\d.]+) .*, ([\d.]+) after", output)
    }
    assert set(values) == {"recall@1", "map@r"}
    for before, after in values.values():
        assert after > before + 0.2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_own_loss_trains_and_is_loaded(tmp_path):
    output = run("own_loss.py", tmp_path, cwd=tmp_path)
    first, last = re.search(r"loss: ([\d.]+) in the first epoch, ([\d.]+) in the last", output).groups()
    assert float(last) < 0.8 * float(first)
    assert "loaded with push=2.0" in output


@pytest.mark.thorough
def test_own_data_is_trained_searched_and_exported(tmp_path, run_here):
    output = run_here(FOLDER / "own_data.py", tmp_path / "out")
    values = re.search(r"\{.*\}", output).group()
    assert "'recall@1'" in values
    assert len(re.findall(r"^\S+ -> \S+ \(\d\.\d\d\)$", output, re.MULTILINE)) == 3
    assert (tmp_path / "out" / "saved_model").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.thorough
def test_quickstart_runs_as_a_script(tmp_path):
    cells = json.loads((FOLDER / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert all(cell.get("outputs", []) == [] for cell in cells)  # stored without results, which would become old
    (tmp_path / "cells.py").write_text("\n".join("".join(source) for source in code) + "\nprint(repr(run), answers)\n")
    done = subprocess.run([sys.executable, "cells.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"<Run [A-Z]+: recall@1 [\d.]+, .*; release .*/releases/quickstart/1, report .*report.html>", done.stdout
    )
    assert len(re.findall(r"^  +[123]  \d\.\d{4}  ", done.stdout, re.MULTILINE)) == 9


def test_scripts_are_short_and_all_tried():
    scripts = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FOLDER.glob("*.py")}
    assert set(scripts) == {
        "losses_only.py",
        "own_data.py",
        "own_loss.py",
        "several_processes.py",
    }  # the last in test_processes
    assert max(scripts.values()) <= 60
