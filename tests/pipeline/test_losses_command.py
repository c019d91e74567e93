import fcntl
import inspect
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from anchorage.errors import UsageError
from anchorage.losses import LOSSES
from anchorage_pipeline.commands.losses import show_losses

_LIST = [sys.executable, "-m", "anchorage_pipeline.cli", "losses"]


def entries(listing):
    """Name of a loss to all that is said of it, folded lines joined again."""
    rows = [list(map(str.strip, entry.splitlines())) for entry in re.split(r"\n(?=\S)", listing)]
    return {name: " ".join(lines) for name, *lines in rows}


@pytest.mark.parametrize("columns", ["500", "80", "24"])
def test_losses_lists_whole_names_papers_and_defaults_at_any_width(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    show_losses(None)
    listing = capsys.readouterr().out
    shown = entries(listing)
    assert list(shown) == sorted(LOSSES)
    assert "Hadsell, Chopra & LeCun, CVPR 2006, equation 4." in shown["contrastive"]
    assert "neg_margin=1.0" in shown["contrastive"]
    assert shown["arcface"].endswith("section 3.2. num_classes, margin=28.6, scale=64.0, sub_centers=1, reducer='mean'")
    assert shown["arcface"].startswith("also known as: subcenter_arcface (sub_centers=3) ArcFace: Deng")
    assert not any(cut in listing for cut in ("\N{HORIZONTAL ELLIPSIS}", "...", "\N{NO-BREAK SPACE}"))
    if columns == "80":
        assert max(map(len, listing.splitlines())) <= 80


def test_a_terminal_and_a_pipe_of_one_width_show_the_same():
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    piped = subprocess.run(_LIST, capture_output=True, text=True, check=True, env=environment).stdout
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(_LIST, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as command:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert command.returncode == 0
    assert shown.decode().replace("\r\n", "\n") == piped
    assert list(entries(piped)) == sorted(LOSSES)


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""


def test_losses_shows_signature_paper_and_docstring_of_one(capsys):
    show_losses("circle")
    call, paper, _, *docstring = capsys.readouterr().out.splitlines()
    assert call == "circle(m=0.4, gamma=80.0, reducer='avg_non_zero')"
    assert paper == "Circle loss: Sun et al., CVPR 2020, equations 6-8."
    assert "\n".join(docstring) == inspect.getdoc(LOSSES["circle"])


def test_losses_shows_a_loss_of_ones_own(capsys, monkeypatch, tmp_path):
    (tmp_path / "own_listed_loss.py").write_text(
        '"""Centres: nobody, nowhere, 2030."""\nimport keras\n\nclass CentreLoss(keras.layers.Layer):\n'
        '    """Draws rows to the mean."""\n\n'
        "    def __init__(self, weight, power=2, **kwargs):\n        super().__init__(**kwargs)\n\n"
        "class BareLoss(keras.layers.Layer):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    show_losses("own_listed_loss:CentreLoss")
    output = capsys.readouterr().out
    assert output == (
        "own_listed_loss:CentreLoss(weight, power=2)\nCentres: nobody, nowhere, 2030.\n\nDraws rows to the mean.\n"
    )
    show_losses("own_listed_loss:BareLoss")
    assert capsys.readouterr().out.endswith("\nThis loss has no docstring.\n")
    show_losses("keras.losses:Circle")
    assert capsys.readouterr().out.startswith("keras.losses:Circle(gamma=80.0, margin=0.4, ")


def test_unknown_loss_is_refused_with_the_known_ones_and_the_nearest():
    with pytest.raises(UsageError, match=r"'circel'. Known: \['angular', .*Did you mean 'circle'\?"):
        show_losses("circel")
