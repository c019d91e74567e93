import inspect

import pytest

from models.errors import UsageError
from models.losses import LOSSES
from pipeline.commands import show_losses


def test_losses_lists_names_papers_and_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    show_losses(None)
    told = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()[0] in LOSSES}
    assert set(told) == set(LOSSES)
    assert "Hadsell, Chopra & LeCun, CVPR 2006" in told["contrastive"]
    assert "neg_margin=1.0" in told["contrastive"]
    assert "num_classes, margin=28.6" in told["arcface"].replace("\N{NO-BREAK SPACE}", " ")


def test_losses_tells_all_about_one(capsys):
    show_losses("circle")
    call, paper, _, *docstring = capsys.readouterr().out.splitlines()
    assert call == "circle(m=0.4, gamma=80.0, reducer='avg_non_zero')"
    assert paper == "Circle loss: Sun et al., CVPR 2020, equations 6-8."
    assert "\n".join(docstring) == inspect.getdoc(LOSSES["circle"])


def test_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"E_LOSS_UNKNOWN: Expected one of angular, .*Received: 'circel'"):
        show_losses("circel")
