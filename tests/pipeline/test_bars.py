"""Progress of long work on a terminal and elsewhere."""

import io
import json
import re

import pytest

from anchorage.progress import advance, task, track
from anchorage_pipeline.bars import Lines
from anchorage_pipeline.console import answer, console, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


def work():
    with progress():
        with task("training", 40):
            advance("training", 10, "epoch 1/4")
            print("epoch 1 is over")
            with task("embedding", 500):
                advance("embedding", 128)
            advance("training", 10)
        print("done")
    answer({"epochs": 4})
    print("result")


def test_bars_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdout", out := Terminal())
    work()
    shown = out.text()
    assert "epoch 1 is over\n" in shown
    assert re.search(r"training .*10/40 .*epoch 1/4", shown)
    assert re.search(r"training .*20/40", shown) or "embedding" in shown
    assert shown.rstrip().endswith("done\nresult")


def test_no_bars_where_there_is_no_terminal(capsys):
    work()
    assert capsys.readouterr().out == "epoch 1 is over\ndone\nresult\n"


@pytest.mark.parametrize("quiet", [False, True])
def test_bars_are_no_part_of_the_json(monkeypatch, quiet):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", out := Terminal())
    monkeypatch.setattr("sys.stderr", err := Terminal())
    with console(as_json=True, quiet=quiet):
        work()
    assert json.loads(out.getvalue()) == {"epochs": 4}
    assert ("training" in err.getvalue()) is not quiet


def test_a_line_every_half_minute_elsewhere(capsys):
    now = [0.0]
    lines = Lines(lambda: now[0])
    lines.start("embedding", 6000, 0)
    lines.start("reading", None, 0)
    for second in range(1, 66):
        now[0] = second
        lines.advance("embedding", 80, "")
    lines.advance("reading", 5, "a.png")
    lines.finish("embedding")
    lines.finish("reading")
    lines.start("short", 3, 0)
    lines.advance("short", 3, "")
    lines.finish("short")
    assert capsys.readouterr().out.splitlines() == [
        "embedding: 2,400 of 6,000, 45 s left",
        "embedding: 4,800 of 6,000, 15 s left",
        "reading: 5, a.png",
        "embedding: 5,200 in 65 s",
        "reading: 5 in 65 s",
    ]


def test_items_of_a_track_are_counted(capsys):
    with progress():
        assert sum(track([1, 2, 3], "numbers")) == 6
    assert capsys.readouterr().out == ""
